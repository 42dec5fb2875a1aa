"""Speak with one agent process: start it through the loader, ask, wait with a deadline, turn failures into errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from toolchain import errors
from toolchain.device import failures, transfer
from toolchain.device.agent_package import agent_package
from toolchain.device.channel import Channel
from toolchain.device.messages import MARKER, PROTOCOL, Hello, check, parse_line
from toolchain.errors import ConnectionLostError, ProtocolError, RemoteTimeoutError

CACHE = "~/.cache/edge-toolchain"
START_S = 120.0  # a slow card's first start of Python
LINE_LIMIT = 16 << 20
NOISE_LIMIT = 1 << 20
SLOWEST = 1000.0  # bytes a second: a message that comes in slower is not waited for


class AgentSession:
    """One agent process. Use as a context manager; not for several threads.

    Args:
        channel: a process running `channel.ONE_LINER`.
        host: name for error texts.
        local: files need not travel.
        order: what the agent is told: `cache`, its folder on the device; `root`, where it reads /sys, /proc and /etc; `run`, the
            name by which it can be ended from another link; `ended`, such names of links that were lost; `venv`, whether it is to
            run under the Python that `install` made, where there is one.

    Raises:
        RuntimeMissingError, RemoteTimeoutError, ProtocolError, ConnectionLostError, OutOfMemoryError, DiskFullError
    """

    def __init__(
        self, channel: Channel, host: str, *, local: bool, order: Mapping[str, Any] | None = None, start_s: float = START_S
    ) -> None:
        self._channel, self.host, self.local, self._start_s = channel, host, local, start_s
        self._buffer, self._noise, self._id, self.open = bytearray(), bytearray(), 0, True
        self._package = agent_package()
        self.hello: Hello | None = None
        try:
            self._order({"cache": CACHE, "root": "/", **(order or {})})
        except BaseException:
            self.kill()
            raise

    def greeted(self) -> AgentSession:
        """Itself, once the agent has started; nothing else may be asked before. Several are started faster one beside the other.

        Raises:
            see the class.
        """
        try:
            self.hello = self._greeting()
        except BaseException:
            self.kill()
            raise
        return self

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def request(
        self, op: str, *, timeout_s: float, on_event: Callable[[str, Any], None] | None = None, **fields: object
    ) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Args:
            timeout_s: longest wait for each message of the device, events included.
            on_event: called with name and data of each event.

        Raises:
            the errors of failures.KINDS; RemoteTimeoutError, ConnectionLostError and ProtocolError end the session.
        """
        self._id += 1
        identity = self._id
        self.request_line({"id": identity, "op": op, **fields}, op, timeout_s)
        while True:
            message = self.message(op, timeout_s)
            if message.get("id") != identity:
                self.broken(ProtocolError(f"{self.host}, {op}: the answer belongs to another request", got=message.get("id")))
            if "ok" in message and isinstance(message["ok"], dict):
                return message["ok"]
            if "error" in message:
                raise failures.reported(self.host, op, message["error"])
            if not isinstance(message.get("event"), str):
                self.broken(ProtocolError(f"{self.host}, {op}: neither an event nor an answer", got=sorted(message)))
            if on_event is not None:
                on_event(message["event"], message.get("data"))

    def put(self, path: Path, *, timeout_s: float = 120.0) -> str:
        """Bring a file to the device, once per content; its hash is checked there. A broken upload goes on where it was.

        Args:
            timeout_s: longest wait for any progress.

        Returns:
            its path on the device.
        """
        return str(path.resolve()) if self.local else transfer.upload(self, path, timeout_s)

    def get(self, remote: str, local: Path, *, size: int, sha256: str, timeout_s: float = 120.0) -> bool:
        """Fetch an output of the agent; `local` appears whole and checked, or not at all. A broken download goes on where it was.

        Returns:
            False if the device no longer has it.
        """
        return transfer.download(self, remote, local, size=size, sha256=sha256, timeout_s=timeout_s)

    def close(self) -> None:
        """End the agent by closing its input."""
        if self.open:
            self.open = False
            self._channel.finish(5.0)

    def kill(self) -> None:
        """End the agent now."""
        if self.open:
            self.open = False
            self._channel.kill()

    def keep(self, every_s: float) -> None:
        """Show the agent now and then that this host is still there."""
        self._channel.keep(every_s)

    def _order(self, order: dict[str, Any]) -> None:
        """Loader and order in one go: an agent that is there answers after one round trip, another two when it must travel."""
        order |= {"sha256": self._package.sha256, "size": len(self._package.packed)}
        self.send(self._package.loader + json.dumps(order).encode() + b"\n", "start", self._start_s)

    def _greeting(self) -> Hello:
        message = self.message("start", self._start_s)
        if "need" in message:
            self.send(self._package.packed, "start", self._start_s)
            message = self.message("start", self._start_s)
        if "error" in message:
            raise failures.reported(self.host, "start", message["error"])
        hello = check(Hello, message.get("hello"))
        if hello.protocol != PROTOCOL:
            self.broken(
                ProtocolError(f"{self.host}: the agent speaks another protocol", got=hello.protocol, fix=f"{PROTOCOL} expected")
            )
        return hello

    def send(self, data: bytes, doing: str, timeout_s: float) -> None:
        """Bytes to the agent."""
        try:
            self._channel.write(data, timeout_s)
        except RemoteTimeoutError as error:
            self.broken(RemoteTimeoutError(f"{self.host}, {doing}: the device does not take data", got=error.got), error)
        except ConnectionLostError:
            self._ended(doing)

    def request_line(self, message: dict[str, Any], doing: str, timeout_s: float) -> None:
        """One line of JSON to the agent."""
        self.send(json.dumps(message).encode() + b"\n", doing, timeout_s)

    def send_raw(self, data: bytes, doing: str, timeout_s: float, *, last: bool) -> None:
        """Bytes that follow a request, in pieces; nothing else may be sent before the last."""
        self._channel.quiet = True
        self.send(data, doing, timeout_s)
        self._channel.quiet = not last

    def message(self, doing: str, timeout_s: float) -> dict[str, Any]:
        """The next marked line; anything else (login scripts, libraries) is noise, kept for error texts and limited."""
        while True:
            line = self._line(doing, timeout_s)
            before, marker, marked = line.partition(MARKER)
            self._noise += before if marker else line
            if len(self._noise) > NOISE_LIMIT:
                self.broken(
                    ProtocolError(f"{self.host}, {doing}: too much output that is not the agent's", got=repr(self._noise[:200]))
                )
            if marker:
                try:
                    return parse_line(marked)
                except ProtocolError as error:
                    self.broken(error)

    def raw(self, size: int, doing: str, timeout_s: float) -> bytes:
        """Exactly `size` bytes that follow an event."""
        while len(self._buffer) < size:
            self._receive(doing, timeout_s)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def broken(self, error: errors.ToolchainError, cause: BaseException | None = None) -> NoReturn:
        """End the session over an error after which nothing more can be understood."""
        self.kill()
        raise error from cause

    def _line(self, doing: str, timeout_s: float) -> bytes:
        searched, until = 0, time.monotonic() + timeout_s
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_LIMIT:
                self.broken(ProtocolError(f"{self.host}, {doing}: a line is too large", got=f"more than {LINE_LIMIT >> 20} MiB"))
            left = until + searched / SLOWEST - time.monotonic()
            if left <= 0:
                self.broken(RemoteTimeoutError(f"{self.host}, {doing}: an answer comes in too slowly", got=f"{searched} bytes"))
            self._receive(doing, min(left, timeout_s))
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _receive(self, doing: str, timeout_s: float) -> None:
        try:
            block = self._channel.read(timeout_s)
        except RemoteTimeoutError as error:
            fix = "see whether the device is busy or frozen; a slower device may need a longer timeout"
            self.broken(RemoteTimeoutError(f"{self.host}, {doing}: no answer in time", got=error.got, fix=fix), error)
        if not block:
            self._ended(doing)
        self._buffer += block

    def _ended(self, doing: str) -> NoReturn:
        self.open = False
        error = failures.ended(self.host, doing, self._channel.finish(10.0), bytes(self._noise + self._buffer), self.hello)
        error.boot_id = self.hello.boot_id if self.hello else None
        raise error
