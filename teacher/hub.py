"""Published weights by name, downloaded from the Hugging Face hub on first use.

The names shorten those of UMT's model zoo: the size, the last data set of fine-tuning, `-f8` for clips of 8
instead of 16 frames, and `-384` for frames of 384 instead of 224 pixels. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE
set the cache, the server and offline mode.
"""

import difflib
import hashlib
import logging
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

log = logging.getLogger(__name__)

REPOSITORY = "OpenGVLab/UMT"
FOLDER = "single_modality"

REVISION: str | None = None
"""Commit of REPOSITORY to download from. None, because none is documented: the newest one of the branch main is
used, and the log names it unless the file's checksum is known."""

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
"""UMT's checkpoints: name -> file in FOLDER of REPOSITORY."""

SHA256 = {
    "l16_ptk710_ftk710_ftk400_f16_res224.pth": "bfee78a03bf806fbc0c216309e8f92792011b7db6556fa860e9d869c1e69fecd",
}
"""Known checksums: file -> SHA-256. A file with another checksum is refused, whatever its revision."""

MANUAL = {"salfom-dhf1k": "SalFoM_DHF1K.pth"}
"""Complete teachers, hosted next to the authors' code: weight name -> file, to be downloaded manually."""


def find(name: str) -> Path:
    """Return the file of a published weight name; a name that looks like a path is returned as a path.

    Raises:
        ValueError: if the name is unknown, or its file must be downloaded manually or cannot be downloaded.
    """
    if name in UMT:
        return fetch(name)
    if name in MANUAL:
        file = MANUAL[name]
        raise ValueError(
            f"{name}: {file} is hosted by the authors of SalFoM and cannot be downloaded by name; "
            f"download it from their repository and give its path, such as weights/{file}"
        )
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        return path
    known = [*UMT, *MANUAL]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ValueError(f"{name}: no such weight file or name; {hint}Known names: {', '.join(known)}")


def fetch(name: str) -> Path:
    """Return the file of a UMT checkpoint from the Hugging Face cache, downloading it if it is not cached.

    Raises:
        ValueError: if the hub cannot be reached or refuses, or if the file's SHA-256 is not the known one.
    """
    file = UMT[name]
    remote = f"{FOLDER}/{file}"
    alternative = f"give the path of {file} as weights"
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # it logs every retry
    try:
        try:
            path = Path(
                huggingface_hub.hf_hub_download(REPOSITORY, remote, revision=REVISION, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            log.info("%s: downloading %s of %s from the Hugging Face hub", name, remote, REPOSITORY)
            path = Path(huggingface_hub.hf_hub_download(REPOSITORY, remote, revision=REVISION))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name}: {file} is not cached and the Hugging Face hub cannot be reached; "
            f"try again with a network, or {alternative}"
        ) from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name}: {remote} of {REPOSITORY} cannot be downloaded from the Hugging Face hub ({reason}); "
            f"{alternative}"
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)
    _check(name, path)
    return path


def _check(name: str, path: Path) -> None:
    """Raise a ValueError if a downloaded file does not have its known SHA-256; log if none is known."""
    expected = SHA256.get(path.name)
    with path.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected is None:
        commit = path.parts[-3]  # the cache keeps a file at snapshots/COMMIT/FOLDER/FILE
        log.info(
            "%s: not checked, because its SHA-256 is not known; commit %s of %s has %s",
            name,
            commit,
            REPOSITORY,
            actual,
        )
    elif actual != expected:
        raise ValueError(
            f"{name}: {path} has SHA-256 {actual}, expected {expected}; the file is damaged or has changed: "
            f"remove {path.resolve()} and try again"
        )
