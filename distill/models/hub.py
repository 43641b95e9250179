"""Models in repositories of the Hugging Face Hub: references, pinned commits and checked files.

    load_model("hf://OWNER/NAME")            the newest commit of the branch main
    load_model("hf://OWNER/NAME@REVISION")   of a branch or tag, or one commit
    load_model("OWNER/NAME@REVISION")        the same, if no file or folder has this name

`saldistill push` writes such repositories. Their saldistill.json lists every file with its size and SHA-256, which
are checked whenever a file is used. Only .safetensors and .onnx files are loaded; code and pickles are never read.
A branch or tag is resolved to its commit once, and what is recorded names the commit. Files are kept in the cache
of huggingface_hub; HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN set the cache, the server, offline mode and
the account.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, Field, model_validator

from distill.data.progress import bars_are_hidden
from distill.errors import UserError, reason_of, shorten
from distill.files import file_hash
from distill.limits import MAX_HUB_FILE_BYTES, MAX_HUB_MANIFEST_BYTES
from distill.models.identity import Identity
from distill.models.networks import PACKAGES
from distill.validation import read_json

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

PREFIX = "hf://"

MANIFEST = "saldistill.json"

FORMAT: Final = 1
"""Version of saldistill.json. Readers refuse later ones; keys that they do not know do not raise it."""

MAIN = "main"
"""Branch of a reference without a revision."""

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

REPOSITORY = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"
COMMIT = re.compile("[0-9a-f]{40}")

FileName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class HubFile(BaseModel):
    """Size and hash of a file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=1, le=MAX_HUB_FILE_BYTES)


class Version(BaseModel):
    """The part of saldistill.json that all versions share."""

    format: int


class HubManifest(BaseModel):
    """The content of saldistill.json."""

    format: Literal[1]
    model: Identity
    weights: FileName
    """A .safetensors file of this project."""
    onnx: FileName | None = None
    """The exported model."""
    config: FileName | None = None
    """The config of the run, for people to read; it is never loaded."""
    files: dict[FileName, HubFile] = Field(max_length=100)
    made_with: str = Field("", max_length=200)

    @model_validator(mode="after")
    def _named_files_are_listed(self) -> "HubManifest":
        for key, name, suffix in (
            ("weights", self.weights, ".safetensors"),
            ("onnx", self.onnx, ".onnx"),
            ("config", self.config, ".yaml"),
        ):
            if name is not None and not name.endswith(suffix):
                raise ValueError(f"{key} is {name}, expected a {suffix} file; no other kind is ever read")
            if name is not None and name not in self.files:
                raise ValueError(f"{key} is {name}, which is not among files")
        return self


@dataclass(frozen=True)
class HubModel:
    """A model in a repository, at one commit."""

    repository: str
    commit: str
    manifest: HubManifest

    @property
    def reference(self) -> str:
        """The reference that names the commit."""
        return f"{PREFIX}{self.repository}@{self.commit}"

    def weights(self) -> Path:
        """Return the weight file, as `file`."""
        return self.file(self.manifest.weights)

    def onnx(self) -> Path:
        """Return the exported model, as `file`.

        Raises:
            UserError: the repository has none, or as `file`.
        """
        if self.manifest.onnx is None:
            raise UserError(
                f"{self.reference}: has no .onnx file; export one with: saldistill export {self.reference} "
                "-o OUT.onnx"
            )
        return self.file(self.manifest.onnx)

    def file(self, name: str) -> Path:
        """Return a file of the cache that has the size and hash of saldistill.json, downloading it if necessary.

        Raises:
            UserError: it cannot be downloaded, or differs.
        """
        expected = self.manifest.files[name]
        path = _fetch(self.reference, self.repository, self.commit, name, most=expected.bytes)
        if (found := file_hash(path)) != expected.sha256:
            raise UserError(
                f"{self.reference}: {name} has SHA-256 {found}, expected {expected.sha256}; the file is damaged or "
                f"has been replaced: remove {path.resolve()} and try again, or choose another revision"
            )
        return path


# ------------------------------------------------------------------------------------------------- references


def is_hub_reference(reference: str | Path) -> bool:
    """Return whether a reference names a repository: hf://..., or OWNER/NAME@REVISION if that is no path."""
    text = str(reference)
    if text.startswith(PREFIX):
        return True
    return (
        re.fullmatch(f"{REPOSITORY}@{REVISION}", text) is not None
        and text.partition("/")[0] not in PACKAGES
        and not text.endswith((".safetensors", ".onnx"))
        and not Path(text).exists()
    )


def parse_reference(reference: str | Path) -> tuple[str, str]:
    """Return the repository, OWNER/NAME, and the revision of a reference; the branch main if it has none.

    Raises:
        UserError: it is not such a reference.
    """
    text = str(reference)
    match = re.fullmatch(f"(?:{PREFIX})?({REPOSITORY})(?:@({REVISION}))?", text)
    revision = (match[2] if match else None) or MAIN
    if match is None or {"", ".", ".."} & set(revision.split("/")):
        raise UserError(
            f"{shorten(text)}: not a repository of the Hugging Face Hub; expected hf://OWNER/NAME or "
            "hf://OWNER/NAME@REVISION, a branch, tag or commit"
        )
    return match[1], revision


def pinned(reference: str) -> str:
    """Return a reference with the commit of its branch or tag; one that names no repository is returned as it is.

    Raises:
        UserError: as `open_repository`.
    """
    if not is_hub_reference(reference):
        return reference
    repository, revision = parse_reference(reference)
    if COMMIT.fullmatch(revision):
        return f"{PREFIX}{repository}@{revision}"
    return open_repository(reference).reference


def open_repository(reference: str | Path) -> HubModel:
    """Return the model of a repository at the commit that its branch or tag has now.

    A commit that is cached is read without a network.

    Raises:
        UserError: the repository does not exist or cannot be reached, has no such revision, or is not one that
            `saldistill push` wrote.
    """
    text = str(reference)
    repository, revision = parse_reference(text)
    path = _fetch(text, repository, revision, MANIFEST, most=MAX_HUB_MANIFEST_BYTES)
    commit = path.parent.name  # the cache keeps a file at snapshots/COMMIT/FILE
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{text}: the server names no commit; check that HF_ENDPOINT is a Hugging Face Hub")
    found = HubModel(repository, commit, read_hub_manifest(path, text))
    if revision != commit:
        log.info("%s: commit %s of %s; to pin it, use %s", text, commit, revision, found.reference)
    return found


def read_hub_manifest(path: Path, where: str) -> HubManifest:
    """Return the content of a saldistill.json.

    Args:
        path: the file.
        where: the reference, for messages.

    Raises:
        UserError: it is damaged or of a later version.
    """
    what, remedy = f"{MANIFEST} of {where}", "push the model again with `saldistill push`"
    version = read_json(path, Version, what, remedy).format
    if version > FORMAT:
        raise UserError(
            f"{where}: {MANIFEST} has format {version}, and this version of saldistill reads up to {FORMAT}; "
            "update saldistill"
        )
    return read_json(path, HubManifest, what, remedy)


# ------------------------------------------------------------------------------------------------- huggingface_hub


def _fetch(where: str, repository: str, revision: str, file: str, *, most: int) -> Path:
    """Return a file of the cache, downloading it if necessary; for a commit that is cached, without any request.

    Args:
        where: what the user gave, with which messages begin.
        repository: OWNER/NAME.
        revision: a branch, tag or commit.
        file: name of the file.
        most: number of bytes from which on nothing is downloaded.

    Raises:
        UserError: it cannot be downloaded, or is larger.
    """
    from huggingface_hub import try_to_load_from_cache

    with hub_errors(where, repository, revision, file):
        cached = try_to_load_from_cache(repository, file, revision=revision) if COMMIT.fullmatch(revision) else None
        if isinstance(cached, str):
            return Path(cached)
        offered = hub().hf_hub_download(repository, file, revision=revision, dry_run=True)
        size = offered.file_size or 0
        if size > most:
            raise UserError(
                f"{where}: {file} has {size:,} bytes, expected at most {most:,}; choose another revision"
            )
        if offered.will_download and file != MANIFEST:
            log.info("%s: downloading %s, %.1f MB", where, file, size / 1e6)
        return Path(hub().hf_hub_download(repository, file, revision=revision))


def hub() -> "HfApi":
    """Return the client of the hub, which reads HF_ENDPOINT, HF_TOKEN and the stored login."""
    from huggingface_hub import HfApi

    return HfApi(library_name="saldistill")


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Show no log lines of huggingface_hub, which reports every retry, and no bars where --quiet hides them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    verbosity = hub_logging.get_verbosity()
    hide = bars_are_hidden() and not are_progress_bars_disabled() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        if hide:
            disable_progress_bars()
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()


@contextmanager
def hub_errors(where: str, repository: str, revision: str, file: str) -> Iterator[None]:
    """Turn every exception of huggingface_hub into one sentence; the block only calls the library.

    Args:
        where: what the user gave, with which the messages begin.
        repository: OWNER/NAME.
        revision: a branch, tag or commit.
        file: the file that is read.

    Raises:
        UserError: the block raised an exception other than one of the file system.
    """
    from huggingface_hub import errors

    try:
        with quiet_hub():
            yield
    except UserError:
        raise
    except errors.HFValidationError as error:
        raise UserError(
            f"{where}: not the name of a repository ({reason_of(error)}); expected OWNER/NAME"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{where}: {repository} has no branch, tag or commit '{revision}'; its page on the hub lists them"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{where}: access to {repository} is restricted; request it on the repository's page, then {LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        no_path = "" if where.startswith(PREFIX) else "no such file or folder, and "
        raise UserError(
            f"{where}: {no_path}the Hugging Face Hub has no repository {repository} that this account can see; "
            f"check the name, and for a private repository {LOG_IN}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        if file == MANIFEST:
            raise UserError(
                f"{where}: {repository} has no {MANIFEST}, so it holds no model of saldistill; expected a "
                f"repository that was written with: saldistill push RUN {repository}"
            ) from error
        raise UserError(
            f"{where}: {repository} has no {file}, which its {MANIFEST} lists; choose another revision"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{where}: {file} is not cached, and {_unreachable(error)}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk or a missing permission
        raise UserError(f"{where}: {_unreachable(error)}") from error


def _unreachable(error: BaseException) -> str:
    """Return why the hub did not answer, and what to do."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    cause = error.__cause__ or error
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it, or use a commit that is cached"
    if isinstance(cause, HfHubHTTPError | FileMetadataError):
        return f"the Hugging Face Hub refuses the request ({reason_of(cause)}); try again later, or {LOG_IN}"
    return f"the Hugging Face Hub cannot be reached ({reason_of(cause)}); try again with a network"
