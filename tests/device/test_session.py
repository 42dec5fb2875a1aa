"""The host's side of the protocol against a scripted process."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolchain import errors
from toolchain.device import session as module
from toolchain.device.agent_package import agent_package, pack
from toolchain.device.channel import Ended
from toolchain.device.messages import MARKER
from toolchain.device.session import AgentSession

HELLO = {"protocol": 1, "python": "3.6.9", "arch": "aarch64", "pid": 7}


def line(message: object) -> bytes:
    return MARKER + json.dumps(message).encode() + b"\n"


GREETING = [line({"loader": {}}), line({"hello": HELLO})]


class Scripted:
    """A process that says what it was told to, in pieces as given; at the end it waits for ever or has ended."""

    def __init__(self, *blocks: bytes, end: Ended | None = None) -> None:
        self.blocks, self.end, self.written, self.killed = list(blocks), end, b"", False

    def read(self, timeout_s: float) -> bytes:
        if self.blocks:
            return self.blocks.pop(0)
        if self.end is None:
            raise errors.RemoteTimeoutError("silence", got=f"{timeout_s} s")
        return b""

    def write(self, data: bytes, timeout_s: float) -> None:
        self.written += data

    def finish(self, timeout_s: float) -> Ended:
        assert self.end is not None
        return self.end

    def kill(self) -> None:
        self.killed = True


def opened(*blocks: bytes, end: Ended | None = None) -> tuple[AgentSession, Scripted]:
    channel = Scripted(*GREETING, *blocks, end=end)
    return AgentSession(channel, "dev", local=False), channel


def test_same_sources_same_bytes() -> None:
    agent_package.cache_clear()
    first = agent_package()
    agent_package.cache_clear()
    assert agent_package() == first
    assert pack({"b": b"2", "a": b"1"}) == pack({"a": b"1", "b": b"2"})
    assert first.sha256 == hashlib.sha256(first.data).hexdigest()


def test_start_sends_the_agent_only_when_it_is_needed() -> None:
    channel = Scripted(*GREETING)
    session = AgentSession(channel, "dev", local=False)
    assert session.hello.python == "3.6.9"
    assert channel.written.startswith(agent_package().loader)
    assert agent_package().data not in channel.written
    channel = Scripted(line({"loader": {}}), line({"need": "x"}), line({"hello": HELLO}))
    AgentSession(channel, "dev", local=False)
    assert channel.written.endswith(agent_package().data)


def test_noise_of_any_shape_is_passed_over() -> None:
    session, _ = opened(b"Welcome!\n{}\n\x1e\xff\xfe\nlast login: ", line({"id": 1, "ok": {"a": 1}}))
    assert session.request("probe", timeout_s=1) == {"a": 1}


def test_lines_may_come_in_any_pieces() -> None:
    whole = line({"id": 1, "event": "progress", "data": {"done": 1}}) + line({"id": 1, "ok": {"a": 1}})
    session, _ = opened(*(whole[i : i + 1] for i in range(len(whole))))
    seen: list[tuple[str, object]] = []
    assert session.request("infer", timeout_s=1, on_event=lambda *event: seen.append(event)) == {"a": 1}
    assert seen == [("progress", {"done": 1})]


@pytest.mark.parametrize(
    "answer",
    [
        b"\x1eedge1 not json\n",
        b"\x1eedge1 [1]\n",
        line({"id": 2, "ok": {}}),
        line({"ok": {}}),
        line({"id": 1, "ok": [1]}),
        line({"id": 1, "event": 3}),
        line({"id": 1}),
    ],
)
def test_violations_end_the_session(answer: bytes) -> None:
    session, channel = opened(answer)
    with pytest.raises(errors.ProtocolError):
        session.request("probe", timeout_s=1)
    assert channel.killed


def test_another_protocol_version_is_refused() -> None:
    with pytest.raises(errors.ProtocolError, match="another protocol"):
        AgentSession(Scripted(line({"loader": {}}), line({"hello": {**HELLO, "protocol": 2}})), "dev", local=False)


def test_endless_lines_and_endless_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_LIMIT", 1000)
    session, channel = opened(MARKER, b"x" * 600, b"x" * 600, b"x" * 600)
    with pytest.raises(errors.ProtocolError, match="too large"):
        session.request("probe", timeout_s=1)
    assert channel.killed
    monkeypatch.setattr(module, "NOISE_LIMIT", 1000)
    session, channel = opened(*[b"y" * 400 + b"\n"] * 4)
    with pytest.raises(errors.ProtocolError, match="too much output"):
        session.request("probe", timeout_s=1)


def test_silence_has_a_deadline() -> None:
    session, channel = opened()
    with pytest.raises(errors.RemoteTimeoutError):
        session.request("probe", timeout_s=0.1)
    assert channel.killed


@pytest.mark.parametrize(
    ("end", "kind", "word"),
    [
        (Ended(127, None, "sh: python3: not found"), errors.RuntimeMissingError, "not found"),
        (Ended(137, None, ""), errors.OutOfMemoryError, "killed"),
        (Ended(None, 9, ""), errors.OutOfMemoryError, "killed"),
        (Ended(132, None, ""), errors.DeviceError, "illegal instruction"),
        (Ended(None, 11, ""), errors.DeviceError, "signal 11"),
        (Ended(None, None, "", "reset by peer"), errors.ConnectionLostError, "reset by peer"),
        (Ended(1, None, "Traceback\x1b[2J"), errors.ProtocolError, r"Traceback\?\[2J"),
    ],
)
def test_how_a_process_ended_names_the_error(end: Ended, kind: type[Exception], word: str) -> None:
    session, _ = opened(end=end)
    with pytest.raises(kind, match=word) as caught:
        session.request("go", timeout_s=1)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("provider", errors.ProviderError),
        ("disk_full", errors.DiskFullError),
        ("out_of_memory", errors.OutOfMemoryError),
        ("runtime_missing", errors.RuntimeMissingError),
        ("upload", errors.ProtocolError),
        ("data", errors.DataError),
        ("something new", errors.DeviceError),
    ],
)
def test_reported_failures(reported: str, kind: type[Exception]) -> None:
    session, channel = opened(line({"id": 1, "error": {"kind": reported, "text": "the reason"}}), line({"id": 2, "ok": {}}))
    with pytest.raises(kind, match="the reason") as caught:
        session.request("build", timeout_s=1)
    assert type(caught.value) is kind
    assert session.request("probe", timeout_s=1) == {}  # the session goes on
    assert not channel.killed


def download(tmp_path: Path, data: bytes, blocks: list[Any], check: Callable[[bytes], str]) -> None:
    session, _ = opened(*[line({"id": 1, "event": "block", "data": block}) for block in blocks], line({"id": 1, "ok": {}}))
    session.get("/x", tmp_path / "got", size=len(data), sha256=check(data))


def test_download(tmp_path: Path) -> None:
    def sha256(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    encoded = {"base64": base64.b64encode(b"hello").decode()}
    download(tmp_path, b"hello", [encoded], sha256)
    assert (tmp_path / "got").read_bytes() == b"hello"
    for data, blocks in [(b"hellO", [encoded]), (b"hell", [encoded]), (b"hello", [{"base64": "%"}]), (b"hello", [7])]:
        with pytest.raises(errors.ProtocolError):
            download(tmp_path, data, blocks, sha256)
    assert (tmp_path / "got").read_bytes() == b"hello"
    assert [path.name for path in tmp_path.iterdir()] == ["got"]
