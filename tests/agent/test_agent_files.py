"""Files on the device's side: taken up where an upload broke, whole or absent, and swept when nobody wants them."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolchain.agent import files
from toolchain.agent.main import Job
from toolchain.agent.wire import AgentError

DATA = bytes(range(256)) * 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Link:
    """A host that answers {"offset"} and sends what follows in pieces; then it is gone."""

    def __init__(self, offset: int | None = 0, data: bytes = b"", pieces: int = 7) -> None:
        self.offset, self.data, self.pieces, self.sent, self.midway = offset, data, pieces, [], False

    def receive(self) -> dict[str, Any] | None:
        return None if self.offset is None else {"offset": self.offset}

    def blocks(self, size: int) -> Iterator[bytes]:
        step = max(1, len(self.data) // self.pieces)
        given = self.data[:size]
        for start in range(0, len(given), step):
            yield given[start : start + step]
        if len(given) < size:
            raise AgentError("upload", "ended early")

    def send(self, message: dict[str, Any], raw: bytes = b"") -> None:
        self.sent.append((message["event"], message["data"], raw))

    def told(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data, _ in self.sent if name == event]


def put(cache: Path, link: Link, data: bytes = DATA, **changes: Any) -> dict[str, Any]:
    request = {"id": 1, "name": ".bin", "size": len(data), "sha256": sha256(data), **changes}
    return dict(files.put(Job(request, link, {}, str(cache))))


def partials(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "files").glob(".partial-*"))


def test_upload(tmp_path: Path) -> None:
    link = Link(data=DATA)
    answer = put(tmp_path, link)
    assert not answer["reused"]
    assert Path(answer["path"]).read_bytes() == DATA
    assert link.told("have") == [{"bytes": 0, "sha256": sha256(b"")}]
    assert link.told("got")[-1] == {"bytes": len(DATA)}
    assert partials(tmp_path) == []
    assert put(tmp_path, Link(offset=None)) == {**answer, "reused": True}


def test_broken_upload_goes_on(tmp_path: Path) -> None:
    link = Link(data=DATA[:100_000])
    with pytest.raises(AgentError, match="early"):
        put(tmp_path, link)
    assert link.midway, "what the host sends next is no request"
    second = Link(offset=100_000, data=DATA[100_000:])
    assert Path(put(tmp_path, second)["path"]).read_bytes() == DATA
    assert second.told("have") == [{"bytes": 100_000, "sha256": sha256(DATA[:100_000])}]


def test_host_may_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(AgentError):
        put(tmp_path, Link(data=b"not what it seems" * 100))
    assert Path(put(tmp_path, Link(offset=0, data=DATA))["path"]).read_bytes() == DATA


@pytest.mark.parametrize("offset", [5, -1, "0", None, 1 << 60])
def test_upload_from_nowhere(tmp_path: Path, offset: Any) -> None:
    with pytest.raises(AgentError):
        put(tmp_path, Link(offset=offset, data=DATA))


def test_damaged_upload(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="damaged"):
        put(tmp_path, Link(data=DATA[::-1]))
    assert list((tmp_path / "files").iterdir()) == []


def test_more_is_here_than_the_file_has(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / f".partial-{sha256(DATA)}").write_bytes(DATA + b"more")
    link = Link(data=DATA)
    put(tmp_path, link)
    assert link.told("have") == [{"bytes": 0, "sha256": sha256(b"")}]


def test_two_uploads_of_one_file_at_once(tmp_path: Path) -> None:
    """The agent of a link that broke may still hold what it has got: the next goes on with a copy."""
    begun, go = threading.Event(), threading.Event()

    class Slow(Link):
        def blocks(self, size: int) -> Iterator[bytes]:
            yield self.data[:100_000]
            begun.set()
            go.wait(20)
            raise AgentError("upload", "ended early")

    def broken() -> None:
        with pytest.raises(AgentError):
            put(tmp_path, Slow(data=DATA))

    first = threading.Thread(target=broken)
    first.start()
    assert begun.wait(20)
    second = Link(offset=100_000, data=DATA[100_000:])
    assert Path(put(tmp_path, second)["path"]).read_bytes() == DATA
    go.set()
    first.join(20)


def test_too_large_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="MB are free") as caught:
        put(tmp_path, Link(), size=1 << 60)
    assert caught.value.kind == "disk_full"
    assert partials(tmp_path) == []


def test_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "receive", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, Link(data=DATA))
    assert partials(tmp_path) == [], "what is of no use takes no space"


@pytest.mark.parametrize(
    "change", [{"sha256": "../x"}, {"sha256": "0" * 63 + "\n"}, {"name": "/../x"}, {"name": ".a/b"}, {"size": "1"}]
)
def test_bad_requests(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(AgentError) as caught:
        put(tmp_path, Link(), **change)
    assert caught.value.kind == "bad_request"


def job(cache: Path, link: Link, **fields: Any) -> Job:
    return Job({"id": 1, **fields}, link, {}, str(cache))


def test_download_from_anywhere(tmp_path: Path) -> None:
    path = files.new_output(job(tmp_path, Link()), ".npz")
    Path(path).write_bytes(DATA)
    made = files.publish(path)
    assert made == {"path": f"{tmp_path}/out/{sha256(DATA)}.npz", "sha256": sha256(DATA), "size": len(DATA)}
    link = Link()
    assert files.get(job(tmp_path, link, path=made["path"], offset=1000)) == {"found": True}
    assert b"".join(raw for _, _, raw in link.sent) == DATA[1000:]
    assert all(data["size"] == len(raw) for _, data, raw in link.sent)
    assert files.drop(job(tmp_path, link, path=made["path"])) == {}
    assert files.drop(job(tmp_path, link, path=made["path"])) == {}
    assert files.get(job(tmp_path, link, path=made["path"], offset=0)) == {"found": False}


def test_what_a_session_writes_is_kept_when_the_clock_jumps(tmp_path: Path) -> None:
    """Another session that starts after the jump takes it for old."""
    writing = job(tmp_path, Link())
    path = files.new_output(writing, ".jsonl")
    os.utime(path, (0, 0))
    files.sweep(str(tmp_path))
    made = files.publish(path)
    files.sweep(str(tmp_path))
    assert Path(made["path"]).exists()
    writing.memory.clear()
    files.sweep(str(tmp_path))
    assert not Path(made["path"]).exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "{out}/../files/x", "{out}/.out-x.npz", "{out}/" + "0" * 64 + "/x", ""])
def test_only_outputs_can_be_fetched_or_dropped(tmp_path: Path, path: str) -> None:
    for operation in (files.get, files.drop):
        with pytest.raises(AgentError, match="not an output"):
            operation(job(tmp_path, Link(), path=path.replace("{out}", f"{tmp_path}/out"), offset=0))


def test_sweep(tmp_path: Path) -> None:
    days = {
        "files/old": 15, "files/new": 13, "files/.partial-old": 2, "files/.partial-new": 0, "out/old": 2, "out/new": 0,
        "agent/old.pyz": 15, "agent/new.pyz": 1, "agent/.agent-old": 2, "files/kept": 400, "elsewhere/old": 400,
    }  # fmt: skip
    for name, age in days.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age * 86400,) * 2)
    with files.keep(str(tmp_path / "files/kept")):
        files.sweep(str(tmp_path))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {name for name, age in days.items() if "new" in name or "kept" in name or "elsewhere" in name}
    files.sweep(str(tmp_path))
    assert not (tmp_path / "files/kept").exists(), "nobody keeps it any more"
