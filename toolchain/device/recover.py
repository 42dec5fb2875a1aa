"""After a lost link, wait for the device and run a re-entrant call again: it finds what is on the disk and goes on.

Only what a link can do is waited for: the link was cut or fell silent, the device rebooted or lost its power. What would come
again (out of memory, a full disk, another host key, a killed process) is raised at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from toolchain import progress
from toolchain.device import stop
from toolchain.device.host import parse_host
from toolchain.device.remote import connect
from toolchain.device.settings import On
from toolchain.errors import AuthenticationError, ConnectionLostError, DeviceError, RemoteTimeoutError, UnreachableError

T = TypeVar("T")
PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
LOGINS_REFUSED = 5  # while it boots, a system may let nobody in
MOST_REBOOTS = 3
MOST_LOSSES = 20


def recover(work: Callable[[], T], on: On) -> T:
    """Result of `work`, which is called again after its link to the device was lost and is back.

    Args:
        work: re-entrant: a second call goes on with what the first left on the disk.
        on: the device, and `patience_s`, the longest wait for it each time.

    Raises:
        what `work` raises; after the patience, the error of the lost link with what was tried.
    """
    losses = reboots = 0
    while True:
        try:
            return work()
        except ConnectionLostError as error:
            losses += 1
            if not error.reached or on.patience_s <= 0 or parse_host(on.host).local:
                raise
            if losses > MOST_LOSSES:
                raise _tired(error, f"the link was lost {losses} times") from error
            progress.note(f"  {error.what}: {error.got}")
            boot_id = _wait(on, error)
            if error.boot_id is not None and boot_id is not None and boot_id != error.boot_id:
                reboots += 1
                if reboots >= MOST_REBOOTS:
                    fix = "look at its power supply and cooling: it may not stand the load"
                    raise _tired(error, f"the device has rebooted {reboots} times during this work", fix) from error
                progress.note(f"  {on.host} has rebooted: going on")
            else:
                progress.note(f"  {on.host} is back: going on")


def _tired(error: DeviceError, what: str, fix: str = "") -> DeviceError:
    return type(error)(f"{error.what}; {what}", got=error.got, fix=fix or "run the same command: what was measured is kept")


def _wait(on: On, lost: ConnectionLostError) -> str | None:
    """Until an agent can be started there again; returns the id of the boot it runs in."""
    started, pause_s, refused = time.monotonic(), PAUSE_S, 0
    with progress.task(f"Waiting for {on.host}", total=max(1, round(on.patience_s)), unit="s") as task:
        while True:
            try:
                with connect(on.host, python=on.python) as device, device.session() as session:
                    return session.hello.boot_id if session.hello else None
            except (ConnectionLostError, UnreachableError, RemoteTimeoutError) as error:
                last: DeviceError = error
            except AuthenticationError as error:
                refused += 1
                if refused > LOGINS_REFUSED:
                    raise
                last = error
            waited_s = time.monotonic() - started
            if waited_s + pause_s > on.patience_s:
                reason = f"waited {waited_s:.0f} s for it: {last.what}"
                raise _tired(
                    lost, reason, "see that it is on and reachable, then run the same command: what was measured is kept"
                )
            task.advance(round(waited_s) - task.done, note=last.what)
            stop.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
