"""A machine engines can run on: what callers see of it, and this machine itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from toolchain.device.agent_package import agent_package
from toolchain.device.channel import LocalChannel
from toolchain.device.session import AgentSession


class Device(Protocol):
    """A machine engines can run on."""

    name: str

    def session(self) -> AgentSession:
        """Start one agent process there."""
        ...

    def sessions(self, count: int) -> list[AgentSession]:
        """Start several at once."""
        ...

    def close(self) -> None:
        """End the connection and what still runs on it."""
        ...

    def __enter__(self) -> Device: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@contextmanager
def starting() -> Iterator[list[AgentSession]]:
    """Sessions that are ended again unless all of them start."""
    begun: list[AgentSession] = []
    try:
        yield begun
    except BaseException:
        for session in begun:
            session.kill()
        raise


class LocalDevice:
    """This machine."""

    name = "local"

    def __init__(self, python: str, cache: str, start_s: float, root: str = "/") -> None:
        self._python, self._start_s, self._order = python, start_s, {"cache": cache, "root": root}

    def session(self) -> AgentSession:
        return self.sessions(1)[0]

    def sessions(self, count: int) -> list[AgentSession]:
        with starting() as begun:
            for _ in range(count):
                channel = LocalChannel(self._python, len(agent_package().loader))
                begun.append(AgentSession(channel, self.name, local=True, order=self._order, start_s=self._start_s))
            return [session.greeted() for session in begun]

    def close(self) -> None:
        pass

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
