"""Files at addresses such as s3://bucket/folder, through fsspec: retried, and with one sentence for an error.

    RemoteFolder("s3://bucket/targets").fetch("store.json", Path("store.json"))

Amazon S3 and its kin (s3://), Google Cloud Storage (gs://), the Hugging Face Hub (hf://datasets/...), web servers
(https://, for reading) and whatever else fsspec knows. Credentials are those of the services' own tools.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from distill.errors import NO_SPACE, UserError, reason_of
from distill.extras import EXTRAS, install_line

log = logging.getLogger(__name__)

T = TypeVar("T")

ADDRESS = re.compile("([a-z][a-z0-9+.-]*)://")

TRIES = 6
"""Number of times that a transfer is tried."""

FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long."""

NO_CREDENTIALS = (
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"),
    *("DefaultCredentialsError", "RefreshError", "LocalTokenNotFoundError"),
)
"""Names of the errors of botocore, google-auth and huggingface_hub that stand for missing credentials; their types
are in optional packages."""

OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "config_kwargs": {"retries": {"mode": "standard", "max_attempts": 2}}},
    "gs": {"use_listings_cache": False},
}
"""Scheme -> arguments of its fsspec file system: retries multiply, so botocore makes few of its own."""

FOLDERS = {"file", "local", "memory"}
"""Protocols of file systems that have folders."""

CREDENTIALS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "run `gcloud auth application-default login`",
    "hf": "run `hf auth login`",
}
"""Scheme -> how to pass credentials."""


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address such as s3://bucket/folder; a Windows path is not."""
    return ADDRESS.match(str(path)) is not None


class RemoteFolder:
    """A folder at an address. It can be pickled and used in any process and thread.

    Args:
        address: e.g. s3://bucket/folder.

    Raises:
        UserError: nothing is known of such addresses, or the package for them is missing.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        found = ADDRESS.match(self.address)
        assert found is not None, address
        self.scheme = found.group(1)
        self._open()

    def __str__(self) -> str:
        return self.address

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none of this name.

        Raises:
            UserError: it cannot be read; see `_attempt`.
        """

        def work(system: Any, path: str) -> bytes | None:
            try:
                content: bytes = system.cat_file(path)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return None
            return content

        return self._attempt(name, "read", work)

    def entries(self) -> dict[str, tuple[int, str]]:
        """Return size in bytes and a tag that changes with the content of all files below the folder, by name.

        Raises:
            UserError: they cannot be listed, or there is no such folder; see `_attempt`.
        """

        def work(system: Any, path: str) -> dict[str, tuple[int, str]]:
            system.invalidate_cache()
            found = system.find(path, detail=True)
            if not found:
                raise FileNotFoundError(path)
            start = len(path.rstrip("/")) + 1
            return {name[start:]: (_size(self, name, each), _tag(each)) for name, each in sorted(found.items())}

        return self._attempt("", "listed", work)

    def fetch(self, name: str, path: Path, check: Callable[[Path], str | None] = lambda _: None) -> None:
        """Download a file.

        Args:
            name: its name in the folder.
            path: file to write; an existing one is overwritten.
            check: returns what is wrong with a downloaded file, or None; a wrong one is downloaded again.

        Raises:
            UserError: it cannot be downloaded, is wrong each time, or no space is left; see `_attempt`.
        """

        def work(system: Any, address: str) -> None:
            system.get_file(address, str(path))
            if (fault := check(path)) is not None:
                raise _WrongFileError(fault)

        self._attempt(name, "downloaded", work)

    def put(self, path: Path, name: str) -> None:
        """Upload a file, and compare its size.

        Raises:
            UserError: it cannot be uploaded; see `_attempt`.
        """
        self._require_writable()
        size = path.stat().st_size

        def work(system: Any, address: str) -> None:
            _make_parents(system, address)
            system.put_file(str(path), address)
            system.invalidate_cache()
            if (found := system.info(address)["size"]) != size:
                raise _WrongFileError(f"it has {found:,} bytes there, and {size:,} here")

        self._attempt(name, "uploaded", work)

    def write(self, name: str, content: bytes) -> None:
        """Upload a small file from memory.

        Raises:
            UserError: it cannot be uploaded; see `_attempt`.
        """
        self._require_writable()

        def work(system: Any, address: str) -> None:
            _make_parents(system, address)
            system.pipe_file(address, content)
            system.invalidate_cache()

        self._attempt(name, "uploaded", work)

    def _require_writable(self) -> None:
        if self.scheme in ("http", "https"):
            raise UserError(
                f"{self}: {self.scheme}:// addresses are for reading only; choose s3://, gs:// or hf://"
            )

    def _open(self) -> tuple[Any, str]:
        """Return the file system of the folder, and the folder's path in it; fsspec keeps one per process."""
        import fsspec

        try:
            system, path = fsspec.url_to_fs(self.address, **OPTIONS.get(self.scheme, {}))
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or ""
            how = install_line(package) if package in EXTRAS else reason_of(error)
            raise UserError(f"{self.address}: needs a package that is not installed; {how}") from error
        except ValueError as error:
            raise UserError(
                f"{self.address}: {reason_of(error)}; expected an address that starts with s3://, gs://, hf:// or "
                "https://, or a folder"
            ) from error
        return system, str(path)

    def _attempt(self, name: str, what: str, work: Callable[[Any, str], T]) -> T:
        """Return the result of some work with the file system and a file's path in it, tried TRIES times.

        Raises:
            UserError: credentials, permission, bucket or file are missing, which no second try would change; or the
                last try failed.
            OSError: no space is left on this machine.
        """
        system, path = self._open()
        shown = f"{self.address}/{name}" if name else self.address
        for number in range(1, TRIES + 1):
            try:
                return work(system, f"{path.rstrip('/')}/{name}" if name else path)
            except UserError:
                raise
            except Exception as error:  # of fsspec's many libraries
                if isinstance(error, OSError) and error.errno in NO_SPACE:
                    raise
                if (fault := self._fault(error)) is not None:
                    raise UserError(f"{shown}: {fault}") from error
                if number == TRIES:
                    raise UserError(
                        f"{shown}: cannot be {what}, tried {TRIES} times ({reason_of(error)}); check the "
                        "address and the network, and run the same command again"
                    ) from error
                wait = FIRST_WAIT * 2 ** (number - 1)
                log.info("%s: not %s (%s); trying again in %g s", shown, what, reason_of(error), wait)
                time.sleep(wait)
        raise AssertionError

    def _fault(self, error: Exception) -> str | None:
        """Return what an error says that no second try would change, and what to do; None for all others."""
        if isinstance(error, FileNotFoundError):
            missing = "no such bucket" if _lacks_bucket(error) else "no such file or folder"
            return f"{missing}; check the address"
        if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):  # of a web server
            return f"access denied ({reason_of(error)}); check the address and your credentials"
        if type(error).__name__ in NO_CREDENTIALS:
            how = CREDENTIALS.get(self.scheme, "see the documentation of fsspec")
            return f"no credentials ({reason_of(error)}); {how}"
        return None


class _WrongFileError(OSError):
    """A file is not the one that was expected."""


def _size(folder: RemoteFolder, name: str, entry: Mapping[str, Any]) -> int:
    if entry.get("size") is None:
        raise UserError(f"{folder}: lists no size of {name}; expected an address such as s3://bucket/folder")
    return int(entry["size"])


def _tag(entry: Mapping[str, Any]) -> str:
    """Return what changes with a file: its checksum, version or time, whichever the service lists."""
    keys = ("ETag", "etag", "blob_id", "md5Hash", "generation", "mtime", "LastModified", "created")
    return next((str(entry[key]) for key in keys if entry.get(key)), "")


def _lacks_bucket(error: FileNotFoundError) -> bool:
    return "bucket does not exist" in str(error).lower()


def _make_parents(system: Any, address: str) -> None:
    """Make the folders of a file where folders exist; object stores have none, and would make a bucket."""
    if not FOLDERS.isdisjoint([system.protocol] if isinstance(system.protocol, str) else system.protocol):
        system.makedirs(system._parent(address), exist_ok=True)
