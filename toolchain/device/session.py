"""Speak with one agent process: start it through the loader, ask, wait with a deadline, turn failures into errors."""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from toolchain import errors, progress
from toolchain.device import failures
from toolchain.device.agent_package import AgentPackage, agent_package
from toolchain.device.channel import Channel
from toolchain.device.messages import MARKER, PROTOCOL, Hello, check, parse_line
from toolchain.errors import ConnectionLostError, ProtocolError, RemoteTimeoutError
from toolchain.stage import file_sha256

CACHE = "~/.cache/edge-toolchain"
START_S = 120.0  # a slow card's first start of Python
LINE_LIMIT = 64 << 20
NOISE_LIMIT = 1 << 20
BLOCK = 1 << 18


class AgentSession:
    """One agent process. Use as a context manager; not for several threads.

    Args:
        channel: a process running `channel.ONE_LINER`.
        host: name for error texts.
        local: files need not travel.
        cache: the agent's folder on the device.
        root: where the agent reads /sys, /proc and /etc.

    Raises:
        RuntimeMissingError, RemoteTimeoutError, ProtocolError, ConnectionLostError, OutOfMemoryError, DiskFullError
    """

    def __init__(
        self, channel: Channel, host: str, *, local: bool, cache: str = CACHE, root: str = "/", start_s: float = START_S
    ) -> None:
        self._channel, self.host, self._local = channel, host, local
        self._buffer, self._noise, self._id, self._open = bytearray(), bytearray(), 0, True
        try:
            self.hello = self._start(agent_package(), cache, root, start_s)
        except BaseException:
            self.kill()
            raise

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
        self._write(json.dumps({"id": identity, "op": op, **fields}).encode() + b"\n", op, timeout_s)
        while True:
            message = self._message(op, timeout_s)
            if message.get("id") != identity:
                self._broken(ProtocolError(f"{self.host}, {op}: the answer belongs to another request", got=message.get("id")))
            if "ok" in message and isinstance(message["ok"], dict):
                return message["ok"]
            if "error" in message:
                raise failures.reported(self.host, op, message["error"])
            if not isinstance(message.get("event"), str):
                self._broken(ProtocolError(f"{self.host}, {op}: neither an event nor an answer", got=sorted(message)))
            if on_event is not None:
                on_event(message["event"], message.get("data"))

    def put(self, path: Path, *, timeout_s: float = 120.0) -> str:
        """Bring a file to the device, once per content; its hash is checked there.

        Args:
            timeout_s: longest wait for each block.

        Returns:
            its path on the device.
        """
        if self._local:
            return str(path.resolve())

        size = path.stat().st_size

        def send(name: str, _: object) -> None:
            if name != "need":
                self._broken(ProtocolError(f"{self.host}, upload: unexpected event", got=name))
            with progress.task(f"Sending {path.name} to {self.host}", total=size, unit="bytes") as task:
                for block in _blocks(path):
                    self._write(block, "upload", timeout_s)
                    task.advance(len(block))

        fields = {"name": path.suffix, "size": size, "sha256": file_sha256(path)}
        answer = self.request("put", timeout_s=timeout_s, on_event=send, **fields)
        if not isinstance(answer.get("path"), str):
            self._broken(ProtocolError(f"{self.host}, upload: no path in the answer"))
        return str(answer["path"])

    def get(self, remote: str, local: Path, *, size: int, sha256: str, timeout_s: float = 120.0) -> None:
        """Fetch a file that this session's agent wrote; `local` appears whole and checked, or not at all."""
        handle, name = tempfile.mkstemp(prefix=f".{local.name}-", dir=local.parent)
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:

                def receive(_: str, data: object) -> None:
                    stream.write(self._decoded(data))
                    if stream.tell() > size:
                        self._broken(ProtocolError(f"{self.host}, download: more bytes than announced", got=stream.tell()))

                self.request("get", timeout_s=timeout_s, on_event=receive, path=remote)
            got = file_sha256(partial)
            if got != sha256:
                raise ProtocolError(f"{self.host}, download: the file arrived damaged", got=f"sha256 {got}", fix="try again")
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def close(self) -> None:
        """End the agent by closing its input."""
        if self._open:
            self._open = False
            self._channel.finish(5.0)

    def kill(self) -> None:
        """End the agent now."""
        if self._open:
            self._open = False
            self._channel.kill()

    def _start(self, package: AgentPackage, cache: str, root: str, start_s: float) -> Hello:
        self._write(package.loader, "start", start_s)
        if "loader" not in self._message("start", start_s):
            self._broken(ProtocolError(f"{self.host}, start: the loader did not announce itself"))
        order = {"cache": cache, "root": root, "sha256": package.sha256, "size": len(package.data)}
        self._write(json.dumps(order).encode() + b"\n", "start", start_s)
        message = self._message("start", start_s)
        if "need" in message:
            self._write(package.data, "start", start_s)
            message = self._message("start", start_s)
        if "error" in message:
            raise failures.reported(self.host, "start", message["error"])
        hello = check(Hello, message.get("hello"))
        if hello.protocol != PROTOCOL:
            self._broken(
                ProtocolError(f"{self.host}: the agent speaks another protocol", got=hello.protocol, fix=f"{PROTOCOL} expected")
            )
        return hello

    def _write(self, data: bytes, doing: str, timeout_s: float) -> None:
        try:
            self._channel.write(data, timeout_s)
        except RemoteTimeoutError as error:
            self._broken(RemoteTimeoutError(f"{self.host}, {doing}: the device does not take data", got=error.got), error)
        except ConnectionLostError:
            self._ended(doing)

    def _message(self, doing: str, timeout_s: float) -> dict[str, Any]:
        """The next marked line; anything else (login scripts, libraries) is noise, kept for error texts and limited."""
        while True:
            line = self._line(doing, timeout_s)
            before, marker, marked = line.partition(MARKER)
            self._noise += before if marker else line
            if len(self._noise) > NOISE_LIMIT:
                self._broken(
                    ProtocolError(f"{self.host}, {doing}: too much output that is not the agent's", got=repr(self._noise[:200]))
                )
            if marker:
                try:
                    return parse_line(marked)
                except ProtocolError as error:
                    self._broken(error)

    def _line(self, doing: str, timeout_s: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_LIMIT:
                self._broken(ProtocolError(f"{self.host}, {doing}: a line is too large", got=f"more than {LINE_LIMIT >> 20} MiB"))
            try:
                block = self._channel.read(timeout_s)
            except RemoteTimeoutError as error:
                fix = "see whether the device is busy or frozen; a slower device may need a longer timeout"
                self._broken(RemoteTimeoutError(f"{self.host}, {doing}: no answer in time", got=error.got, fix=fix), error)
            if not block:
                self._ended(doing)
            self._buffer += block
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _decoded(self, data: object) -> bytes:
        try:
            return base64.b64decode(data["base64"], validate=True)  # type: ignore[index]
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            self._broken(ProtocolError(f"{self.host}, download: a block is not base64"), error)

    def _ended(self, doing: str) -> NoReturn:
        self._open = False
        raise failures.ended(self.host, doing, self._channel.finish(10.0), bytes(self._noise + self._buffer))

    def _broken(self, error: errors.ToolchainError, cause: BaseException | None = None) -> NoReturn:
        self.kill()
        raise error from cause


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block
