"""Weights by name: which published files there are, and how one of them comes here.

    find("umt-l16-k400")     SalFoM's encoder: a file in the Hugging Face cache, fetched on first use
    find("runs/my.pth")      a file is itself

The names are those of UMT's model zoo, made short: size, what the network was tuned on last, `-f8` where it saw
clips of 8 frames instead of 16, `-384` where its frames were of 384 pixels instead of 224. The hub's own settings
say where the cache is and which server is asked (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE).
"""

import difflib
import hashlib
import logging
from pathlib import Path

log = logging.getLogger(__name__)

REPOSITORY = "OpenGVLab/UMT"
FOLDER = "single_modality"

UMT = {
    "umt-l16-k400": "l16_ptk710_ftk710_ftk400_f16_res224.pth",
    "umt-l16-k600": "l16_ptk710_ftk710_ftk600_f16_res224.pth",
    "umt-l16-k700": "l16_ptk710_ftk710_ftk700_f16_res224.pth",
    "umt-l16-pretrained-f8": "l16_ptk710_f8_res224.pth",
    "umt-l16-k710-f8": "l16_ptk710_ftk710_f8_res224.pth",
    "umt-l16-k400-f8": "l16_ptk710_ftk710_ftk400_f8_res224.pth",
    "umt-l16-k600-f8": "l16_ptk710_ftk710_ftk600_f8_res224.pth",
    "umt-l16-k700-f8": "l16_ptk710_ftk710_ftk700_f8_res224.pth",
    "umt-l16-mitv1-f8": "l16_ptk710_ftk710_ftk400_ftmitv1_f8_res224.pth",
    "umt-l16-mitv1-f8-384": "l16_ptk710_ftk710_ftk400_ftmitv1_f8_res384.pth",
    "umt-l16-ssv2-f8": "l16_ptk710_ftk710_ftssv2_f8_res224.pth",
    "umt-b16-pretrained-f8": "b16_ptk710_f8_res224.pth",
    "umt-b16-k710-f8": "b16_ptk710_ftk710_f8_res224.pth",
    "umt-b16-k400-f8": "b16_ptk710_ftk710_ftk400_f8_res224.pth",
    "umt-b16-k600-f8": "b16_ptk710_ftk710_ftk600_f8_res224.pth",
    "umt-b16-k700-f8": "b16_ptk710_ftk710_ftk700_f8_res224.pth",
    "umt-b16-mitv1-f8": "b16_ptk710_ftk710_ftk400_ftmitv1_f8_res224.pth",
    "umt-b16-mitv1-f8-384": "b16_ptk710_ftk710_ftk400_ftmitv1_f8_res384.pth",
    "umt-b16-ssv2-f8": "b16_ptk710_ftk710_ftssv2_f8_res224.pth",
}
"""UMT's checkpoints: name -> file below FOLDER of REPOSITORY."""

SHA256 = {
    "l16_ptk710_ftk710_ftk400_f16_res224.pth": "bfee78a03bf806fbc0c216309e8f92792011b7db6556fa860e9d869c1e69fecd",
}
"""Checksums, of the files whose checksum is known."""

BY_HAND = {"salfom-dhf1k": "SalFoM_DHF1K.pth"}
"""Whole teachers, which their authors host beside their code, where no program can fetch them."""


def find(weights: str | Path) -> Path:
    """Return the file that a name or a path of weights stands for; a file of that name goes before the name.

    Raises:
        ValueError: for a name that is unknown, must be fetched by hand, or cannot be fetched now.
    """
    name, path = str(weights), Path(weights)
    if path.exists():
        return path
    if name in UMT:
        return fetch(name)
    if name in BY_HAND:
        file = BY_HAND[name]
        raise ValueError(
            f"{name}: the authors of SalFoM host this file themselves, as {file} of their repository, and it "
            f"cannot be fetched by name; download it to any place and give its path, such as weights/{file}"
        )
    if path.suffix or len(path.parts) > 1:
        return path  # meant as a file; whoever reads it says that it is missing
    known = [*UMT, *BY_HAND]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"{name}: neither a file nor the name of weights; {hint}The names are {', '.join(known)}")


def fetch(name: str) -> Path:
    """Return the file of one of UMT's checkpoints from the Hugging Face cache; fetch it when it is not there yet.

    Raises:
        ValueError: if the hub cannot be reached or refuses, or the file's SHA-256 is known and another.
    """
    from huggingface_hub import hf_hub_download  # here: it takes long to import, and few runs need it
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging as hub_logging

    file = UMT[name]
    inside = f"{FOLDER}/{file}"
    by_hand = f"give the path of {file} as weights"
    loudness = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # it tries several times, and says so each time
    try:
        try:
            path = Path(hf_hub_download(REPOSITORY, inside, local_files_only=True))
        except LocalEntryNotFoundError:
            log.info("%s: fetching %s of %s from the Hugging Face hub", name, inside, REPOSITORY)
            path = Path(hf_hub_download(REPOSITORY, inside))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name}: {file} is not in the cache and the Hugging Face hub cannot be reached; "
            f"try again with a network, or {by_hand}"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name}: the Hugging Face hub does not give {inside} of {REPOSITORY} ({reason}); {by_hand}"
        ) from error
    finally:
        hub_logging.set_verbosity(loudness)
    _check(name, path)
    return path


def _check(name: str, path: Path) -> None:
    """Compare a fetched file with its SHA-256, where that is known."""
    expected = SHA256.get(path.name)
    if expected is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{name}: {path} has SHA-256 {found}, expected {expected}; it is damaged or another file: "
            f"remove {path.resolve()} and try again"
        )
