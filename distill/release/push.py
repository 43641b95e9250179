"""Upload a model to a repository of the Hugging Face Hub, in one commit.

saldistill push runs/demo/student OWNER/NAME
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.claims import claim
from distill.errors import UserError, reason_of
from distill.files import atomic_folder
from distill.models.hub import COMMIT, LOG_IN, MAIN, MANIFEST, PREFIX, hub, parse_reference, quiet_hub
from distill.release.hub_folder import WRITTEN, HubFolder, write_hub_folder

log = logging.getLogger(__name__)

HARMLESS = (".gitattributes", "README.md")
"""Files of a repository that was only just created."""


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or written to a folder.

    Attributes:
        repository: OWNER/NAME.
        files: name -> bytes.
        no_onnx: why there is no .onnx file; empty if there is one.
        branch: the branch.
        commit: the commit; None if nothing was uploaded.
        folder: the folder that was written in place of an upload.
    """

    repository: str
    files: dict[str, int]
    no_onnx: str
    branch: str
    commit: str | None = None
    folder: Path | None = None

    @property
    def reference(self) -> str:
        """The reference that loads the model."""
        return f"{PREFIX}{self.repository}" + (f"@{self.commit}" if self.commit else "")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "repository": self.repository,
            "branch": self.branch,
            "commit": self.commit,
            "reference": self.reference,
            "folder": self.folder,
            "files": self.files,
            "no_onnx": self.no_onnx,
        }

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in self.files.items())
        if self.folder is not None:
            return f"{self.folder}: {listed}; nothing was uploaded, run the command without --dry-run for that"
        return (
            f"{self.repository}: {listed}; commit {self.commit} of {self.branch}\n"
            f"To load it: saldistill predict {self.reference} VIDEO"
        )


@dataclass(frozen=True)
class Target:
    """The repository before the upload.

    Attributes:
        repository: OWNER/NAME.
        branch: the branch to commit to.
        exists: whether the repository exists.
        has_branch: whether the branch exists.
        commit: newest commit of the branch, or of main if the branch does not exist; None without a repository.
        files: its files.
    """

    repository: str
    branch: str
    exists: bool = False
    has_branch: bool = False
    commit: str | None = None
    files: frozenset[str] = frozenset()


def push(
    run: str | Path,
    repository: str,
    *,
    revision: str = MAIN,
    message: str | None = None,
    private: bool = False,
    onnx: bool = True,
    licence: str | None = None,
    overwrite: bool = False,
    dry_run: str | Path | None = None,
) -> Pushed:
    """Upload weights, config, model card and .onnx file of a model; the repository is created if necessary.

    Args:
        run: run folder (its best weights, else its newest checkpoint), weight file or pretrained model.
        repository: OWNER/NAME.
        revision: branch to commit to, created from main if it does not exist.
        message: message of the commit.
        private: create a private repository.
        onnx: also upload the exported network, if it can be exported.
        licence: licence of the weights; defaults to that in their notes.
        overwrite: also push to a repository that holds something else, whose other files are kept.
        dry_run: folder to write in place of an upload.

    Raises:
        UserError: there are no weights; or the hub cannot be reached, this account may not write there, or the
            repository holds something else.
    """
    name, branch = check_names(repository, revision)
    if dry_run is not None:
        with claim(dry_run, "the folder"), atomic_folder(dry_run) as folder:
            written = write_hub_folder(run, name, folder, onnx=onnx, licence=licence)
        return Pushed(name, written.files, written.no_onnx, branch, folder=Path(dry_run))
    target = look_up(name, branch, private=private, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="saldistill-push-") as temporary:
        folder = Path(temporary)
        written = write_hub_folder(run, name, folder, onnx=onnx, licence=licence)
        commit = upload(folder, written, target, message, private=private)
    return Pushed(name, written.files, written.no_onnx, branch, commit=commit)


def check_names(repository: str, revision: str) -> tuple[str, str]:
    """Return the repository, OWNER/NAME, and the branch.

    Raises:
        UserError: a name is invalid, or the revision is a commit.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name = repository.removeprefix(PREFIX)
    if "@" in name:
        raise UserError(f"{repository}: expected OWNER/NAME without a revision; choose a branch with --revision")
    try:
        name, branch = parse_reference(f"{PREFIX}{name}@{revision}")
        validate_repo_id(name)
    except (UserError, HFValidationError) as error:
        raise UserError(
            f"{repository}, branch {revision}: cannot be a repository and a branch of the Hugging Face Hub; "
            "expected OWNER/NAME of letters, digits, '-', '_' and '.', e.g. me/student"
        ) from error
    if COMMIT.fullmatch(branch) or branch.startswith("refs/"):
        raise UserError(f"--revision {branch}: expected the name of a branch, not a commit or reference")
    return name, branch


def look_up(repository: str, branch: str, *, private: bool, overwrite: bool) -> Target:
    """Return the state of a repository, before any work is done for it.

    Raises:
        UserError: nobody is logged in, the hub cannot be reached, the repository is public although a private one
            is wanted, or it holds something other than a model of this project.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.is_offline_mode():
        raise UserError(
            f"{repository}: nothing can be uploaded while HF_HUB_OFFLINE is set; unset it, or use --dry-run"
        )
    if get_token() is None:
        raise UserError(
            f"{repository}: not logged in to the Hugging Face Hub; {LOG_IN}, with a token that may write"
        )
    with push_errors(repository):
        try:
            info = hub().model_info(repository)
        except RepositoryNotFoundError:
            return Target(repository, branch)
        has_branch = True
        try:
            info = hub().model_info(repository, revision=branch)
        except RevisionNotFoundError:
            has_branch = False
        files = frozenset(each.rfilename for each in info.siblings or ())
    if private and not info.private:
        raise UserError(
            f"{repository}: exists and is public, although --private was given; make it private in its settings, "
            "or choose another name"
        )
    if MANIFEST not in files and not files <= set(HARMLESS) and not overwrite:
        example = min(files - set(HARMLESS))
        raise UserError(
            f"{repository}: holds something other than a model of saldistill, e.g. {example}; choose another name, "
            "or pass --overwrite to add the model to it"
        )
    return Target(repository, branch, True, has_branch, info.sha, files)


def upload(folder: Path, written: HubFolder, target: Target, message: str | None, *, private: bool) -> str:
    """Upload a folder in one commit, and return the commit; the newest one if nothing has changed.

    Raises:
        UserError: it fails; no commit has been made then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    client, name = hub(), target.repository
    identity = written.model.identity
    stale = [each for each in WRITTEN if each in target.files and each not in written.files]
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(each, folder / each) for each in written.files),
        *(CommitOperationDelete(each) for each in (stale if MANIFEST in target.files else ())),
    ]
    with push_errors(name):
        if not target.exists:
            client.create_repo(name, private=private, exist_ok=True)
        if not target.has_branch and target.branch != MAIN:
            client.create_branch(name, branch=target.branch, exist_ok=True)
        done = client.create_commit(
            name,
            operations,
            commit_message=message
            or f"{identity['name']}:{identity['variant']}, saldistill {version('saldistill')}",
            revision=target.branch,
            parent_commit=target.commit,
        )
    return str(done.oid)


@contextmanager
def push_errors(repository: str) -> Iterator[None]:
    """Turn every exception of huggingface_hub into one sentence; the block only calls the library.

    Raises:
        UserError: the block raised an exception other than one of the file system.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with quiet_hub():
            yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk or a missing permission
        refusal = next((each for each in (error, error.__cause__) if isinstance(each, HfHubHTTPError)), None)
        status = refusal.response.status_code if refusal is not None else None
        owner = repository.partition("/")[0]
        reasons = {
            401: f"the Hugging Face Hub does not accept the token; {LOG_IN}, with a token that may write",
            403: f"this account may not write to {owner}; use the name of your account or organisation, and a "
            "token that may write",
            404: f"the Hugging Face Hub shows this account no such repository; check the name, or {LOG_IN}",
            412: "the repository has changed since the upload began; run the command again",
        }
        why = reasons.get(status or 0) or (
            f"the Hugging Face Hub refuses the upload ({reason_of(refusal)})"
            if refusal is not None
            else f"the upload failed ({reason_of(error.__cause__ or error)}); check the network and try again"
        )
        raise UserError(f"{repository}: {why}; no commit was made") from error
