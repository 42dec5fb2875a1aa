"""The host's side of the protocol against a scripted process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from toolchain import errors
from toolchain.device import session as module
from toolchain.device import transfer
from toolchain.device.agent_package import agent_package, pack
from toolchain.device.channel import Ended
from toolchain.device.messages import MARKER
from toolchain.device.session import AgentSession

HELLO = {"protocol": 2, "python": "3.6.9", "arch": "aarch64", "pid": 7, "boot_id": "1-2", "oom_kills": 0}


def line(message: object) -> bytes:
    return MARKER + json.dumps(message).encode() + b"\n"


GREETING = [line({"hello": HELLO})]


class Scripted:
    """A process that says what it was told to, in pieces as given; at the end it waits for ever or has ended."""

    quiet = False

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

    def keep(self, every_s: float) -> None:
        pass

    def kill(self) -> None:
        self.killed = True


def opened(*blocks: bytes, end: Ended | None = None) -> tuple[AgentSession, Scripted]:
    channel = Scripted(*GREETING, *blocks, end=end)
    return AgentSession(channel, "dev", local=False).greeted(), channel


def test_same_sources_same_bytes() -> None:
    agent_package.cache_clear()
    first = agent_package()
    agent_package.cache_clear()
    assert agent_package() == first
    assert pack({"b": b"2", "a": b"1"}) == pack({"a": b"1", "b": b"2"})
    assert first.sha256 == hashlib.sha256(first.data).hexdigest()


def test_start_sends_the_agent_only_when_it_is_needed() -> None:
    channel = Scripted(*GREETING)
    session = AgentSession(channel, "dev", local=False).greeted()
    assert session.hello.python == "3.6.9"
    loader, order = agent_package().loader, channel.written[len(agent_package().loader) :]
    assert channel.written.startswith(loader)
    assert json.loads(order)["sha256"] == agent_package().sha256
    assert order.endswith(b"}\n"), "nothing but the order follows the loader"
    channel = Scripted(line({"need": "x"}), line({"hello": HELLO}))
    AgentSession(channel, "dev", local=False).greeted()
    assert channel.written.endswith(agent_package().packed)


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
        AgentSession(Scripted(line({"hello": {**HELLO, "protocol": 1}})), "dev", local=False).greeted()


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
        (Ended(137, None, "oom_kill 1\n"), errors.OutOfMemoryError, "killed"),
        (Ended(137, None, "oom_kill 0\n"), errors.DeviceError, "killed by someone"),
        (Ended(None, 9, ""), errors.OutOfMemoryError, "killed"),
        (Ended(132, None, ""), errors.DeviceError, "illegal instruction"),
        (Ended(None, 11, ""), errors.DeviceError, "signal 11"),
        (Ended(None, None, "", "reset by peer"), errors.ConnectionLostError, "reset by peer"),
        (Ended(1, None, "Traceback\x1b[2J"), errors.ProtocolError, r"Traceback\\x1b\[2J"),
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


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blocks(*pieces: bytes, announced: int | None = None) -> list[bytes]:
    """What the device sends for a download."""
    sent = [
        line({"id": 1, "event": "raw", "data": {"size": len(one) if announced is None else announced}}) + one for one in pieces
    ]
    return [*sent, line({"id": 1, "ok": {"found": True}}), line({"id": 2, "ok": {}})]


def test_download(tmp_path: Path) -> None:
    session, channel = opened(*blocks(b"he", b"l\n\x1eo"))
    assert session.get("/x", tmp_path / "got", size=6, sha256=sha256(b"hel\n\x1eo"))
    assert (tmp_path / "got").read_bytes() == b"hel\n\x1eo"
    assert [path.name for path in tmp_path.iterdir()] == ["got"]
    assert b'"op": "drop"' in channel.written, "the device may keep nothing that was fetched"


def test_a_broken_download_goes_on_where_it_was(tmp_path: Path) -> None:
    session, _ = opened(blocks(b"hel")[0], end=Ended(None, None, "", "reset by peer"))
    with pytest.raises(errors.ConnectionLostError):
        session.get("/x", tmp_path / "got", size=5, sha256=sha256(b"hello"))
    assert not (tmp_path / "got").exists()
    session, channel = opened(*blocks(b"lo"))
    assert session.get("/x", tmp_path / "got", size=5, sha256=sha256(b"hello"))
    assert b'"offset": 3' in channel.written
    assert (tmp_path / "got").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (blocks(b"hellO"), 5),
        (blocks(b"hell"), 5),
        (blocks(b"hello!"), 5),
        (blocks(b"hello", announced=-1), 5),
        (blocks(b"hello", announced=1 << 40), 5),
        ([line({"id": 1, "event": "raw", "data": 7})], 5),
        ([line({"id": 1, "event": "else", "data": {"size": 5}})], 5),
        ([line({"id": 1, "ok": {}})], 5),
    ],
)
def test_a_download_that_lies(tmp_path: Path, answer: list[bytes], size: int) -> None:
    (tmp_path / "got").write_bytes(b"old")
    session, _ = opened(*answer)
    with pytest.raises(errors.ProtocolError):
        session.get("/x", tmp_path / "got", size=size, sha256=sha256(b"hello"))
    assert (tmp_path / "got").read_bytes() == b"old"


def test_a_download_larger_than_the_disk(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFullError):
        opened()[0].get("/x", tmp_path / "got", size=1 << 60, sha256=sha256(b""))


def test_a_download_that_is_gone(tmp_path: Path) -> None:
    session, _ = opened(line({"id": 1, "ok": {"found": False}}))
    assert not session.get("/x", tmp_path / "got", size=5, sha256=sha256(b"hello"))
    assert not list(tmp_path.iterdir())


def answers(*messages: dict[str, object]) -> list[bytes]:
    return [line({"id": 1, **message}) for message in messages]


def put(tmp_path: Path, data: bytes, *messages: dict[str, object], end: Ended | None = None) -> tuple[str, bytes]:
    """Path that an upload of `data` gives against a scripted device, and what was sent after the request."""
    (tmp_path / "data.bin").write_bytes(data)
    session, channel = opened(*answers(*messages), end=end)
    started = len(channel.written)
    path = session.put(tmp_path / "data.bin", timeout_s=1)
    return path, channel.written[started:].split(b"\n", 1)[1]


DONE = {"ok": {"path": "/there", "reused": False}}


def have(data: bytes, size: int | None = None) -> dict[str, object]:
    return {"event": "have", "data": {"bytes": len(data) if size is None else size, "sha256": sha256(data)}}


def got(count: int) -> dict[str, object]:
    return {"event": "got", "data": {"bytes": count}}


def test_upload_of_what_is_there(tmp_path: Path) -> None:
    assert put(tmp_path, b"hello", {"ok": {"path": "/there", "reused": True}}) == ("/there", b"")


@pytest.mark.parametrize("kept", [b"", b"hel", b"hello"])
def test_upload_goes_on_where_it_was(tmp_path: Path, kept: bytes) -> None:
    confirmations = [got(5)] if len(kept) < 5 else []
    path, sent = put(tmp_path, b"hello", have(kept), *confirmations, DONE)
    assert sent == b'{"offset": %d}\n' % len(kept) + b"hello"[len(kept) :]
    assert path == "/there"


@pytest.mark.parametrize("kept", [have(b"HEL"), have(b"hello, more"), have(b"hel", 1 << 60)])
def test_upload_begins_anew_over_what_is_not_the_file(tmp_path: Path, kept: dict[str, object]) -> None:
    _, sent = put(tmp_path, b"hello", kept, got(5), DONE)
    assert sent == b'{"offset": 0}\nhello'


def test_upload_waits_for_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow link is not filled for minutes: the device's silence would then be taken for a dead link."""
    monkeypatch.setattr(transfer, "AHEAD_S", 0.0)
    data = bytes(transfer.LEAST_AHEAD * 3)
    (tmp_path / "data.bin").write_bytes(data)
    session, channel = opened(*answers(have(b"")))
    with pytest.raises(errors.RemoteTimeoutError):
        session.put(tmp_path / "data.bin", timeout_s=1)
    assert channel.written.count(b"\0") == transfer.LEAST_AHEAD


@pytest.mark.parametrize(
    "lie",
    [
        [got(5)],
        [have(b""), got(6)],
        [have(b""), got(0)],
        [have(b""), {"event": "got", "data": {"bytes": "5"}}],
        [have(b""), {"event": "have"}],
        [{"event": "have", "data": {"bytes": -1, "sha256": sha256(b"")}}],
        [{"event": "other"}],
        [{"ok": {"path": "../../etc/passwd", "reused": False}}],
        [{"ok": {}}],
    ],
)
def test_upload_to_a_device_that_lies(tmp_path: Path, lie: list[dict[str, object]]) -> None:
    with pytest.raises((errors.ProtocolError, errors.RemoteTimeoutError)):
        put(tmp_path, b"hello", *lie)


def test_disk_that_fills_up_during_an_upload(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFullError, match="No space"):
        put(tmp_path, b"hello", have(b""), {"error": {"kind": "disk_full", "text": "No space left"}})


def test_a_line_that_drips_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    session, channel = opened(*[b"x"] * 100)
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(errors.RemoteTimeoutError, match="too slowly"):
        session.request("probe", timeout_s=10)
    assert channel.killed
