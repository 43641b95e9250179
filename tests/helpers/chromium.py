"""Control headless Chromium through its debugging pipe, with the standard library only."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

EXECUTABLE = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """A browser with one page.

    Args:
        profile: empty folder for the browser's profile.
        flags: additional command-line flags.
    """

    def __init__(self, profile: Path, *flags: str) -> None:
        assert EXECUTABLE
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()

        # the browser reads commands from descriptor 3 and writes answers to 4
        connect = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            [
                "bash", "-c", connect, "bash", EXECUTABLE, "--headless=new", "--no-sandbox", "--disable-gpu",
                "--remote-debugging-pipe", f"--user-data-dir={profile}", "--mute-audio",
                "--autoplay-policy=no-user-gesture-required", "--disable-background-networking",
                "--disable-component-update", *flags, "about:blank",
            ],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_commands)
        os.close(write_answers)
        self._reader = os.fdopen(self._answers, "rb")
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.log: list[str] = []  # exceptions and warnings since the page was opened
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._commands)
        self._reader.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a Chrome DevTools Protocol command and return its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> bytes:
        message = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium ended")
            message += byte
        return bytes(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.log.append(json.dumps(parameters["exceptionDetails"].get("exception", {}))[:500])
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.log.append(" ".join(str(value.get("value")) for value in parameters["args"]))

    def open(self, address: str) -> None:
        """Open a page and wait until it is loaded."""
        self.log = []
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:1000])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                page = self.run("document.body.innerText")
                raise TimeoutError(f"{condition}\n{page}\n{self.log}")
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an <input type="file">."""
        node = self.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")["result"]
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=node["objectId"])

    def drop(self, file: Path) -> None:
        """Drag and drop a file onto the page."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=200, y=300, data=data)

    def picture(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Save a screenshot of a window of this size."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        time.sleep(0.5)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def serve(folder: Path, *, isolated: bool = False) -> Iterator[str]:
    """Serve a folder on localhost; `isolated` sends the headers that allow threads."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
