"""Peak memory of this process and of its children, on every operating system."""

import sys

import psutil


def peak_memory_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # Windows has no such module

    return _mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_children_mib() -> float:
    """Return the peak resident memory in MiB of the largest ended child; 0 on Windows, which keeps none."""
    if sys.platform == "win32":
        return 0.0
    import resource

    return _mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _mib(peak: int) -> float:
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
