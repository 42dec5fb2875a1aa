"""External meters of a board of known power: a plug that answers HTTP, and a program that writes a CSV by a clock of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Plug:
    """A Shelly's answer on loopback. `answer` may be replaced by other bytes, `silent` makes it say nothing for a while."""

    def __init__(self, watts: Callable[[float], float]) -> None:
        self.watts, self.answer, self.silent = watts, b"", False
        plug = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if plug.silent:
                    self.send_error(503)
                    return
                body = plug.answer or json.dumps({"id": 0, "apower": plug.watts(time.monotonic())}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/rpc/Switch.GetStatus?id=0"


@contextmanager
def plugged(watts: Callable[[float], float]) -> Iterator[Plug]:
    """A plug that answers with `watts(monotonic time)`."""
    plug = Plug(watts)
    thread = threading.Thread(target=plug.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield plug
    finally:
        plug.server.shutdown()
        thread.join()
        plug.server.server_close()


@contextmanager
def logged(path: Path, watts: Callable[[float], float], *, every_s: float, ahead_s: float) -> Iterator[None]:
    """A program that writes `timestamp,watts` to a file, by a clock that is `ahead_s` ahead of this machine's."""
    path.write_text("timestamp,watts\n")
    stop = threading.Event()

    def work() -> None:
        with path.open("a", buffering=1) as stream:
            while not stop.wait(every_s):
                stream.write(f"{time.time() + ahead_s:.3f},{watts(time.monotonic()):.2f}\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
