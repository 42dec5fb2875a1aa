"""One user at a time on a device: the lock lives as long as the session that took it, and the kernel takes it back."""

from __future__ import annotations

import getpass
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolchain import progress
from toolchain.device.messages import Message, Text, check
from toolchain.device.session import AgentSession
from toolchain.errors import DeviceBusyError

OWNER = secrets.token_hex(16)  # of this process: a command that opens several sessions does not wait for itself
LEASE_S, BEAT_S = 60.0, 15.0  # a host that is gone without closing the link loses the device
SILENCE_S = 60.0  # longest wait for word from the device while waiting


class Holder(Message):
    """Who has the device, in its own words, and for how long; None where it does not say."""

    who: Text
    held_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None

    def text(self) -> str:
        """For people."""
        if self.held_s is None:
            return self.who[:200]
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - self.held_s))
        return f"{self.who[:200]}, since {since} ({self.held_s:.0f} s)"


class LockAnswer(Message):
    held: bool
    holder: Holder | None


def whoami() -> str:
    """user@host: command of this process, as the holder of a device is named to others."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id
        user = "?"
    words = [Path(sys.argv[0]).name, *(word for word in sys.argv[1:2] if not word.startswith("-"))]
    return f"{user}@{socket.gethostname()}: {' '.join(words)}"


def hold(session: AgentSession, who: str | None = None, wait_s: float = 0.0) -> None:
    """Take the device the session runs on, machine-wide, until the session ends.

    A device that another session of this process holds already counts as ours.

    Args:
        who: told to others who want it; default `whoami()`.
        wait_s: longest wait while someone else has it; who that is is shown.

    Raises:
        DeviceBusyError: with who has it and since when.
        DeviceError and its kinds.
    """
    lease_s = 0.0 if session.local else LEASE_S
    shown: list[str] = []

    def show(_: str, data: object) -> None:
        holder = check(Holder, data)
        if holder.who not in shown:
            shown.append(holder.who)
            progress.note(f"  {session.host} is in use: waiting up to {wait_s:.0f} s for {holder.text()}")

    fields: dict[str, Any] = {"owner": OWNER, "who": who or whoami(), "wait_s": wait_s, "lease_s": lease_s}
    answer = check(LockAnswer, session.request("lock", timeout_s=SILENCE_S, on_event=show, **fields))
    if not answer.held:
        holder = answer.holder.text() if answer.holder else None
        waited = f" after {wait_s:.0f} s" if wait_s else ""
        fix = "wait for it (--wait SECONDS), or ask them" if not wait_s else "ask them, or wait longer"
        raise DeviceBusyError(f"{session.host}: the device is in use{waited}", got=holder, fix=fix)
    if lease_s:
        session.keep(BEAT_S)
