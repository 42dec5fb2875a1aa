"""A machine engines can run on: what callers see of it, and this machine itself."""

from __future__ import annotations

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

    def close(self) -> None:
        """End the connection and what still runs on it."""
        ...

    def __enter__(self) -> Device: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class LocalDevice:
    """This machine."""

    name = "local"

    def __init__(self, python: str, cache: str, start_s: float, root: str = "/") -> None:
        self._python, self._start_s, self._order = python, start_s, {"cache": cache, "root": root}

    def session(self) -> AgentSession:
        channel = LocalChannel(self._python, len(agent_package().loader))
        return AgentSession(channel, self.name, local=True, order=self._order, start_s=self._start_s)

    def close(self) -> None:
        pass

    def __enter__(self) -> LocalDevice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
