"""Files to and from a device, checked by hash. A transfer that broke goes on where it was."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import progress
from toolchain.device import failures
from toolchain.device.messages import Count, Message, Path_, Sha256, check
from toolchain.errors import DiskFullError, ProtocolError
from toolchain.stage import file_sha256

if TYPE_CHECKING:
    from toolchain.device.session import AgentSession

BLOCK = 1 << 15
LEAST_AHEAD, MOST_AHEAD = 1 << 16, 4 << 20  # bytes sent and not yet reported as arrived
AHEAD_S = 2.0  # so much of a link's rate is kept on the way: a slow link is not filled for minutes
RAW_LIMIT = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


class Have(Message):
    """What an earlier upload has left on the device."""

    bytes: Count
    sha256: Sha256


class Got(Message):
    """How far an upload has come."""

    bytes: Count


class PutAnswer(Message):
    path: Path_
    reused: bool


class RawBlock(Message):
    size: Count


class GetAnswer(Message):
    found: bool


def upload(session: AgentSession, path: Path, timeout_s: float) -> str:
    """See AgentSession.put."""
    fields = {"name": path.suffix, "size": path.stat().st_size, "sha256": file_sha256(path)}

    def begin(name: str, data: object) -> None:
        if name == "have":
            _send(session, path, check(Have, data), timeout_s)
        elif name not in ("hashed", "got"):
            session.broken(ProtocolError(f"{session.host}, upload: unexpected event", got=name[:100]))

    return check(PutAnswer, session.request("put", timeout_s=timeout_s, on_event=begin, **fields)).path


def _send(session: AgentSession, path: Path, have: Have, timeout_s: float) -> None:
    """The part that is missing there; never much more than the link carries in AHEAD_S before the device confirms it."""
    size = path.stat().st_size
    offset = have.bytes if have.bytes <= size and _prefix_sha256(path, have.bytes) == have.sha256 else 0
    session.request_line({"offset": offset}, "upload", timeout_s)
    sent = confirmed = offset
    ahead, since = float(LEAST_AHEAD), time.monotonic()
    with (
        path.open("rb") as stream,
        progress.task(f"Sending {path.name} to {session.host}", total=size, unit="bytes") as task,
    ):
        stream.seek(offset)
        task.advance(offset, note="going on" if offset else "")
        while confirmed < size:
            while sent < size and sent - confirmed < ahead:
                block = stream.read(min(BLOCK, size - sent))
                if not block:
                    session.broken(ProtocolError("the file became shorter while it was sent", got=str(path)))
                sent += len(block)
                session.send_raw(block, "upload", timeout_s, last=sent == size)
            got = _confirmation(session, timeout_s)
            if not confirmed < got <= sent:
                session.broken(ProtocolError(f"{session.host}, upload: bytes that were not sent arrived", got=got))
            task.advance(got - confirmed)
            confirmed = got
            rate = (confirmed - offset) / max(1e-3, time.monotonic() - since)
            ahead = min(max(LEAST_AHEAD, rate * AHEAD_S), MOST_AHEAD)


def _confirmation(session: AgentSession, timeout_s: float) -> int:
    message = session.message("upload", timeout_s)
    if "error" in message:  # the disk is full, say; the rest of what is on the way means nothing any more
        session.broken(failures.reported(session.host, "upload", message["error"]))
    if message.get("event") != "got":
        session.broken(ProtocolError(f"{session.host}, upload: not a confirmation", got=sorted(message)[:5]))
    return check(Got, message.get("data")).bytes


def _prefix_sha256(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size and (block := stream.read(min(1 << 20, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def download(session: AgentSession, remote: str, local: Path, *, size: int, sha256: str, timeout_s: float) -> bool:
    """See AgentSession.get."""
    if not SHA256.fullmatch(sha256):
        raise ProtocolError(f"{session.host}, download: not a hash", got=repr(sha256[:100]))
    partial = local.with_name(f".{local.name}.{sha256[:16]}.partial")
    for old in local.parent.glob(f".{_literal(local.name)}.*.partial"):
        if old != partial:
            old.unlink()
    offset = partial.stat().st_size if partial.exists() else 0
    if offset > size:
        partial.unlink()
        offset = 0
    if size - offset > (free := shutil.disk_usage(local.parent).free):
        raise DiskFullError("no space left for a file of the device", got=f"{size} bytes, {free} are free: {local.parent}")
    with (
        partial.open("ab") as stream,
        progress.task(f"Fetching {local.name} from {session.host}", total=size, unit="bytes") as task,
    ):
        task.advance(offset, note="going on" if offset else "")

        def receive(name: str, data: object) -> None:
            block = check(RawBlock, data).size if name == "raw" else 0
            if not 0 < block <= min(RAW_LIMIT, size - stream.tell()):
                got: Any = f"{name[:100]} of {block} bytes"
                session.broken(ProtocolError(f"{session.host}, download: not what was announced", got=got))
            stream.write(session.raw(block, "download", timeout_s))
            stream.flush()
            task.advance(block)

        answer = check(GetAnswer, session.request("get", timeout_s=timeout_s, on_event=receive, path=remote, offset=offset))
    if not answer.found:
        partial.unlink()
        return False
    if (got := file_sha256(partial)) != sha256:
        partial.unlink()
        raise ProtocolError(f"{session.host}, download: the file arrived damaged", got=f"sha256 {got}", fix="try again")
    partial.replace(local)
    session.request("drop", timeout_s=timeout_s, path=remote)
    return True


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
