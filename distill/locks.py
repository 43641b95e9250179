"""The lock of an open file, which the system releases however the process ends, on every operating system."""


def lock_file(file: int, *, wait: bool = False) -> bool:
    """Lock an open file for this process alone; closing it releases the lock.

    Args:
        file: descriptor of a file that is open for writing.
        wait: wait until no other process holds the lock.

    Returns:
        Whether this process now holds the lock; False only without `wait`, if another process holds it.

    Raises:
        OSError: the file system has no locks.
    """
    import portalocker  # here, because it takes a fifth of the time of `saldistill --help`

    flags = portalocker.LockFlags.EXCLUSIVE
    try:
        portalocker.lock(file, flags if wait else flags | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        cause = error.__cause__ or error.__context__
        raise cause if isinstance(cause, OSError) else OSError(str(error)) from error
    return True
