"""An S3 endpoint on this machine: moto's server behind a proxy that can drop, refuse, cut or slow down answers."""

import http.client
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distill.data.video import guard

BUCKET = "bucket"

KEEP = ("content-type", "etag", "last-modified", "content-range", "accept-ranges", "x-amz-request-id", "location")
"""Headers of answers that the proxy passes on."""

SIGNED = "AWS4-HMAC-SHA256 Credential=tester/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""Header of a request; moto does not check the signature. Requests without one are signed on the way."""

CHUNK = 64 * 2**10


class Storage(ThreadingHTTPServer):
    """The endpoint.

    Attributes:
        fault: returns what to do to an answer, from the method and the path: "drop" the connection, answer "503",
            "cut" the body in its middle, "shorten" it as if it ended there, or "" to leave it.
        faults: how often each was injected.
        requests: method and path of each request.
        rate: bytes per second of each body that is sent; None sends at once.
    """

    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.faults: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.rate: float | None = None
        self._free_at = 0.0
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Proxy)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @staticmethod
    def address(folder: str) -> str:
        return f"s3://{BUCKET}/{folder}"

    def call(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """Return the answer of the server behind the proxy."""
        connection = http.client.HTTPConnection(*self.upstream)
        connection.request(method, path, body, {"Authorization": SIGNED, **(headers or {})})
        content = connection.getresponse().read()
        connection.close()
        return content

    def empty(self) -> None:
        """Make the bucket empty, and forget requests and faults."""
        from moto.moto_api._internal import moto_api_backend

        moto_api_backend.reset()
        self.call("PUT", f"/{BUCKET}")
        self.requests.clear()
        self.faults.clear()
        self.fault = lambda method, path: ""

    def get(self, name: str) -> bytes:
        return self.call("GET", f"/{BUCKET}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self.call("PUT", f"/{BUCKET}/{name}", content)

    def delete(self, name: str) -> None:
        self.call("DELETE", f"/{BUCKET}/{name}")

    def gets(self, ending: str) -> int:
        """Return how many files with this ending were downloaded."""
        return sum(method == "GET" and path.endswith(ending) for method, path in self.requests)

    def wait_for(self, count: int) -> None:
        """Wait until the shared line has sent `count` more bytes at `rate`."""
        if self.rate is not None:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic()) + count / self.rate
                until = self._free_at
            time.sleep(max(0.0, until - time.monotonic()))


class Proxy(BaseHTTPRequestHandler):
    server: Storage
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path))
        fault = self.server.fault(self.command, path)
        self.server.faults[fault] += bool(fault)
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "503":
            self._answer(503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
            return
        connection = http.client.HTTPConnection(*self.server.upstream)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("host", "transfer-encoding", "expect")
        }
        connection.request(
            self.command, self.path, body, {"Authorization": SIGNED, **headers, "Content-Length": str(len(body))}
        )
        answer = connection.getresponse()
        content = answer.read()
        kept = {k: v for k, v in answer.getheaders() if k.lower() in KEEP or k.lower().startswith("x-amz-")}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        connection.close()
        self._answer(answer.status, kept, content, fault)

    def __getattr__(self, name: str) -> Callable[[], None]:  # do_GET and so on
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def _body(self) -> bytes:
        """Return the body of a request, which AWS' clients may send in chunks with signatures."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: str = "") -> None:
        if fault == "shorten":
            content = content[: len(content) // 2]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if fault == "cut":
            content = content[: len(content) // 2]
            self.close_connection = True
        for start in range(0, len(content), CHUNK):
            self.server.wait_for(len(content[start : start + CHUNK]))
            self.wfile.write(content[start : start + CHUNK])

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def object_storage(environment: pytest.MonkeyPatch) -> Iterator[Storage]:
    """Run an endpoint with an empty bucket, to which s3:// addresses lead while the block runs."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    storage = Storage((host, port))
    thread = threading.Thread(target=storage.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    names = {
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        for name, value in names.items():
            environment.setenv(name, value)
        storage.empty()
        yield storage
    finally:
        forget_connections()
        storage.shutdown()
        storage.server_close()
        thread.join()
        moto.stop()


def forget_connections() -> None:
    """Forget the file systems of fsspec, here and in guarded subprocesses, which have read the environment."""
    import s3fs

    guard._kill_spare()

    s3fs.S3FileSystem.clear_instance_cache()


def every(count: int, fault: str, ending: str = ".shard", method: str = "GET") -> Callable[[str, str], str]:
    """Return a `Storage.fault` that hits every `count`-th request of files with an ending."""
    seen = Counter[str]()
    guard = threading.Lock()

    def decide(found: str, path: str) -> str:
        if found != method or not path.endswith(ending):
            return ""
        with guard:
            seen["all"] += 1
            return fault if seen["all"] % count == 1 % count else ""

    return decide


def first(count: int, fault: str, ending: str = ".shard", method: str = "GET") -> Callable[[str, str], str]:
    """Return a `Storage.fault` that hits the first `count` requests of each file with an ending."""
    seen = Counter[str]()

    def decide(found: str, path: str) -> str:
        if found != method or not path.endswith(ending):
            return ""
        seen[path] += 1
        return fault if seen[path] <= count else ""

    return decide
