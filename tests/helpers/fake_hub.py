"""A fake Hugging Face hub on this machine, with the requests of downloads and uploads."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

NOBODY = "http://127.0.0.1:9"  # no server listens here
TOKEN = "hf_of_the_tests"
LARGE = (".safetensors", ".onnx", ".bin")
"""Files that are uploaded through LFS."""


@dataclass
class Repository:
    """A model repository.

    Attributes:
        private: whether only TOKEN may read it.
        gated: whether nobody may read it.
        commits: commit -> path -> content.
        refs: branches and tags -> commit.
    """

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], *, branch: str = "main", oid: str | None = None) -> str:
        """Add a commit with these files to a branch; return it."""
        oid = oid or hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch, tag or commit."""
        return self.commits[self.refs.get(revision, revision)]


class FakeHub(ThreadingHTTPServer):
    """A fake hub.

    Attributes:
        repositories: OWNER/NAME -> repository.
        large: SHA-256 -> content of files that were uploaded through LFS.
        owners: those to whose repositories TOKEN may write.
        requests: what was requested, without that of a list that huggingface_hub fetches for its user agent.
        before_commit: called with the repository before each commit.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.owners = {"me"}
        self.requests: list[str] = []
        self.before_commit: Any = None
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, files: dict[str, bytes], *, oid: str | None = None) -> Repository:
        """Add a repository with one commit."""
        repository = Repository()
        repository.commit(files, oid=oid)
        self.repositories[name] = repository
        return repository


class RefusedError(Exception):
    """An answer with an error: status, code and message."""


class Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.path != "/api/agent-harnesses":
            self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            if self.command in ("HEAD", "GET") and parts[2:3] == ["resolve"]:
                self.resolve(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
            elif self.command == "PUT":
                assert hashlib.sha256(body).hexdigest() == parts[1]
                self.server.large[parts[1]] = body
                self.send(b"")
            else:
                self.send(json.dumps(self.api(parts, body)).encode())
        except RefusedError as refused:
            status, code, message = refused.args
            content = json.dumps({"error": message}).encode()
            self.send(content, {"X-Error-Code": code, "X-Error-Message": message}, status=status)

    def send(self, content: bytes, headers: dict[str, str] | None = None, *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def readable(self, name: str) -> Repository:
        """Return a repository that this client may read."""
        repository = self.server.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            raise RefusedError(404 if known else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            raise RefusedError(403, "GatedRepo", "Access to this model is restricted")
        return repository

    def check_writer(self, owner: str) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        if owner not in self.server.owners:
            raise RefusedError(403, "", f"You don't have the rights to write to {owner}")

    def commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.readable(name)
        commit = self.commit_of(repository, revision)
        content = repository.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self.send(b"", {**headers, "X-Error-Code": "EntryNotFound"}, status=404)
        else:
            self.send(content, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    def api(self, parts: list[str], body: bytes) -> Any:
        match [self.command, *parts]:
            case ["GET", "api", "models", owner, name, *rest]:
                repository = self.readable(f"{owner}/{name}")
                commit = self.commit_of(repository, rest[1] if rest else "main")
                return {
                    "id": f"{owner}/{name}",
                    "sha": commit,
                    "private": repository.private,
                    "siblings": [{"rfilename": path} for path in repository.commits[commit]],
                }
            case ["POST", "api", "validate-yaml"]:
                return {"warnings": [], "errors": []}
            case ["POST", "api", "repos", "create"]:
                return self.create(json.loads(body))
            case ["POST", "api", "models", owner, name, "branch", branch]:
                self.check_writer(owner)
                repository = self.readable(f"{owner}/{name}")
                if branch in repository.refs:
                    raise RefusedError(409, "", "Reference already exists")
                repository.refs[branch] = repository.refs["main"]
                return {}
            case ["POST", "api", "models", owner, name, "preupload", revision]:
                self.check_writer(owner)
                return {"files": self.upload_modes(self.readable(f"{owner}/{name}"), revision, json.loads(body))}
            case ["POST", owner, _, "info", "lfs", "objects", "batch"]:
                self.check_writer(owner)
                return {"transfer": "basic", "objects": [self.action(each) for each in json.loads(body)["objects"]]}
            case ["POST", "api", "models", owner, name, "commit", branch]:
                self.check_writer(owner)
                return self.commit(self.readable(f"{owner}/{name}"), f"{owner}/{name}", branch, body)
        raise RefusedError(404, "", f"no such endpoint: {self.command} {self.path}")

    def create(self, given: dict[str, Any]) -> dict[str, Any]:
        name = f"{given['organization']}/{given['name']}"
        self.check_writer(given["organization"])
        if name in self.server.repositories:
            raise RefusedError(409, "", "You already created this model repo")
        repository = self.server.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        repository.private = given.get("visibility") == "private"
        return {"url": f"{self.server.url}/{name}"}

    def upload_modes(self, repository: Repository, revision: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        present = repository.files(self.commit_of(repository, revision))
        answers = []
        for file in given["files"]:
            content = present.get(file["path"])
            large = file["path"].endswith(LARGE)
            oid = None
            if content is not None:
                blob = b"blob %d\0" % len(content) + content
                oid = (hashlib.sha256(content) if large else hashlib.sha1(blob)).hexdigest()
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return answers

    def action(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["oid"] in self.server.large:
            return given
        return {**given, "actions": {"upload": {"href": f"{self.server.url}/lfs/{given['oid']}"}}}

    def commit(self, repository: Repository, name: str, branch: str, body: bytes) -> dict[str, Any]:
        if self.server.before_commit is not None:
            self.server.before_commit(repository)
        files = dict(repository.files(self.commit_of(repository, branch)))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    if value.get("parentCommit", repository.refs[branch]) != repository.refs[branch]:
                        raise RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
                    repository.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = repository.commit(files, branch=branch)
        return {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid}

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


def point_at(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, token: str | None = None) -> None:
    """Redirect huggingface_hub, which reads the environment when it is imported, to a server and a cache."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


@contextmanager
def running_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, *, token: str | None = None) -> Iterator[FakeHub]:
    """Yield a running fake hub that huggingface_hub uses, with an empty cache."""
    with FakeHub() as server:
        point_at(server.url, folder, monkeypatch, token=token)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between retries
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
