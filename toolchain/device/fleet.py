"""The same work on several devices at once, each in a thread of its own: a dead board costs only its own result."""

from __future__ import annotations

import contextvars
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from toolchain import progress
from toolchain.device import stop
from toolchain.device.host import parse_host
from toolchain.errors import DeviceError, ToolchainError, UsageError

T = TypeVar("T")
END_S = 30.0  # for workers to end what they have begun, after Ctrl-C


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one host: a value, or the error that stood in its way."""

    host: str
    value: T | None
    error: Exception | None
    seconds: float

    def to_json(self, value: Any) -> dict[str, Any]:
        """Plain dict for JSON; `value` is this outcome's value in JSON types."""
        error = None
        if self.error is not None:
            known = isinstance(self.error, ToolchainError)
            error = {
                "kind": type(self.error).__name__,
                "what": self.error.what if isinstance(self.error, ToolchainError) else str(self.error),
                "text": str(self.error) if known else repr(self.error),
            }
        return {"host": self.host, "error": error, "seconds": self.seconds, "result": value}


def check_hosts(hosts: Sequence[str]) -> list[str]:
    """The hosts, each one once.

    Raises:
        UsageError: none, one twice, or one that is no host.
    """
    if not hosts:
        raise UsageError("no host was given", fix="name at least one device")
    for host in hosts:
        parse_host(host)
        if list(hosts).count(host) > 1:
            raise UsageError("a host was given twice", got=host, fix="a device measures one thing at a time")
    return list(hosts)


def slug(host: str) -> str:
    """A host as the name of a folder: one host, one name."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"%{ord(found[0]):02x}", host).replace("%40", "@").replace("%3a", "+")


def run_on(
    hosts: Sequence[str], work: Callable[[str], T], *, done: Callable[[Outcome[T]], None] = lambda outcome: None
) -> list[Outcome[T]]:
    """`work(host)` for all hosts at once.

    Args:
        work: called in a thread of the host's own; its progress is shown under the host's name.
        done: called in this thread with each outcome, as they come.

    Returns:
        the outcomes, in the order of the hosts.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once every worker has let go of its device; outcomes before that were given to `done`.
        Exception: one of `work` that is no ToolchainError or OSError is a bug, and is raised when the others have ended.
    """
    hosts = check_hosts(hosts)
    told, outcomes = threading.Event(), queue.Queue[Outcome[T]]()
    finished: dict[str, Outcome[T]] = {}
    threads = []
    for host in hosts:
        context = contextvars.copy_context()
        arguments = (_worker, host, work, told, outcomes)
        threads.append(threading.Thread(target=context.run, args=arguments, name=f"fleet {host}", daemon=True))
    try:
        for thread in threads:
            thread.start()
        with progress.task("Devices", total=len(hosts), unit="devices") as task:
            while len(finished) < len(hosts):
                outcome = outcomes.get()
                finished[outcome.host] = outcome
                task.advance(note=outcome.host)
                done(outcome)
    except BaseException:
        told.set()
        until = time.monotonic() + END_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        raise
    for outcome in finished.values():
        if outcome.error is not None and not isinstance(outcome.error, (ToolchainError, OSError)):
            raise outcome.error
    return [finished[host] for host in hosts]


def _worker(host: str, work: Callable[[str], T], told: threading.Event, outcomes: queue.Queue[Outcome[T]]) -> None:
    stop.obey(told)
    started = time.monotonic()
    value, error = None, None
    with progress.speaker(host):
        try:
            value = work(host)
        except KeyboardInterrupt:
            return
        except Exception as problem:  # noqa: BLE001 - the other hosts go on; the caller decides
            error = problem
    outcomes.put(Outcome(host, value, error, time.monotonic() - started))


def failed(outcomes: Sequence[Outcome[Any]]) -> Exception | None:
    """One error for all hosts that gave no result, or None; the only host's own error where there was but one."""
    bad = [outcome for outcome in outcomes if outcome.error is not None]
    if len(outcomes) == 1 or not bad:
        return outcomes[0].error
    lines = [f"{one.host}: {one.error}".replace("\n", "\n  ") for one in bad]
    return DeviceError(f"{len(bad)} of {len(outcomes)} devices gave no result", got="\n  ".join(lines))


def folder_of(out: Path, host: str) -> Path:
    """Each host's own folder under `out`, made if it is missing."""
    folder = out / slug(host)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
