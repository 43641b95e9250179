"""Serve a view on the loopback interface until Ctrl-C."""

import errno
import os
import signal
import socket
import sys
import threading
import webbrowser

import uvicorn

from distill.errors import RunError, Terminated, UserError
from distill.viewer.app import make_app
from distill.viewer.view import View

HOST = "127.0.0.1"

USUAL_PORT = 8765
"""Port without `--port`; if it is taken, any free one."""

MOST_CONNECTIONS = 64
"""Connections at a time; a browser opens six."""

STOP_SECONDS = 3.0
"""Time that the server's thread gets to end; it needs a tenth of a second on an idle machine."""


def serve(view: View, *, port: int | None = None, browser: bool = True) -> None:
    """Serve a view until Ctrl-C, and print its address.

    Args:
        view: the view; it is closed at the end.
        port: TCP port; defaults to USUAL_PORT, or any free one.
        browser: open the page in a browser, if there is a graphical desktop.

    Raises:
        UserError: the port is taken or not allowed.
        KeyboardInterrupt: on Ctrl-C.
    """
    with listen(port) as listening:
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(view),
                log_config=None,
                log_level="error",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        # in a thread, where uvicorn leaves Ctrl-C to the main thread
        thread = threading.Thread(target=run, args=(server, listening), name="serve", daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                thread.join(0.01)
            address = f"http://{HOST}:{listening.getsockname()[1]}"
            print(f"Viewing {view.title} at {address} (Ctrl-C stops)", flush=True)
            if browser and has_desktop():
                webbrowser.open(address)
            while thread.is_alive():
                thread.join(0.5)
            raise RunError("the server ended unexpectedly")
        except KeyboardInterrupt as error:
            ended = stop(server, thread, view)
            if not ended:  # a batch of a large network, in whose code Python's orderly exit would crash
                print(
                    "saldistill: " + ("terminated" if isinstance(error, Terminated) else "interrupted"),
                    file=sys.stderr,
                )
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
            raise
        finally:
            stop(server, thread, view)


def run(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run the server; what it raises while it is being stopped, such as cancelled requests, is dropped."""
    try:
        server.run(sockets=[listening])
    except BaseException:
        if not server.should_exit:
            raise


def stop(server: uvicorn.Server, thread: threading.Thread, view: View) -> bool:
    """End the server and the view; return whether all threads have ended."""
    server.should_exit = server.force_exit = True  # do not wait for open connections
    thread.join(STOP_SECONDS)
    return view.close() and not thread.is_alive()


def listen(port: int | None) -> socket.socket:
    """Return a socket that is bound to a port of the loopback interface.

    Raises:
        UserError: the port is taken or not allowed.
    """
    for number in [USUAL_PORT, 0] if port is None else [port]:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere the option lets two programs share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, number))
            listening.listen()
        except OSError as error:
            listening.close()
            if port is not None:
                taken = error.errno == errno.EADDRINUSE
                why = "is taken by another program" if taken else f"cannot be used ({error.strerror})"
                raise UserError(f"--port {port}: {why}; choose another port, or leave out --port") from error
        else:
            return listening
    raise UserError("no free port; end another program that listens, or name a port with --port")


def has_desktop() -> bool:
    """Return whether a browser would open in a window, rather than in this terminal."""
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
