"""Going on after a lost link, without a link."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from toolchain import errors
from toolchain.device import recover as module
from toolchain.device.recover import recover
from toolchain.device.settings import On

ON = On(host="dev", patience_s=20.0)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Line:
    """Connections that come about or not, one after the other."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)

    def __call__(self, host: str, **_: Any) -> Line:
        self.now = self.outcomes.pop(0)
        if isinstance(self.now, Exception):
            raise self.now
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def session(self) -> Any:
        return self

    @property
    def hello(self) -> Any:
        return SimpleNamespace(boot_id=self.now)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module.stop, "sleep", clock.sleep)
    return clock


def lost(boot_id: str | None = "a", reached: bool = True) -> errors.ConnectionLostError:
    error = errors.ConnectionLostError("dev, go: the link was cut", got="reset by peer")
    error.boot_id, error.reached = boot_id, reached
    return error


def unreached(kind: type[errors.DeviceError]) -> errors.DeviceError:
    error = kind("dev: not there")
    error.reached = False
    return error


def run(monkeypatch: pytest.MonkeyPatch, work: list[Any], *line: Exception | str, on: On = ON) -> tuple[Any, list[str], int]:
    """Result, notes, calls."""
    notes: list[str] = []
    calls = [0]
    monkeypatch.setattr(module, "connect", Line(*line))
    monkeypatch.setattr(module.progress, "note", notes.append)

    def once() -> Any:
        calls[0] += 1
        step = work.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    return recover(once, on), notes, calls[0]


def test_goes_on_when_the_link_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    down = [unreached(kind) for kind in (errors.UnreachableError, errors.RemoteTimeoutError, errors.AuthenticationError)]
    result, notes, calls = run(monkeypatch, [lost(), 7], *down, "a")
    assert (result, calls) == (7, 2)
    assert "reset by peer" in notes[0]
    assert notes[-1] == "  dev is back: going on"


def test_says_when_the_device_has_rebooted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "rebooted" in run(monkeypatch, [lost("a"), 7], "b")[1][-1]
    assert "rebooted" not in run(monkeypatch, [lost(None), 7], "b")[1][-1]


def test_a_device_that_reboots_under_load_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ConnectionLostError, match=r"(?s)rebooted 3 times.*power supply"):
        run(monkeypatch, [lost("a"), lost("b"), lost("c")], "b", "c", "d")


def test_a_link_that_breaks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ConnectionLostError, match="lost 21 times"):
        run(monkeypatch, [lost()] * 30, *["a"] * 30)


def test_patience_ends(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    down = [unreached(errors.UnreachableError) for _ in range(50)]
    with pytest.raises(errors.ConnectionLostError, match=r"(?s)waited \d+ s.*not there.*reset by peer.*is kept"):
        run(monkeypatch, [lost(), 7], *down)
    assert 10 < clock.now <= 20


@pytest.mark.parametrize(
    "error",
    [
        errors.OutOfMemoryError("killed"), errors.DiskFullError("full"), errors.HostKeyError("changed"),
        errors.AuthenticationError("refused"), errors.DeviceError("killed by someone"), errors.RemoteTimeoutError("slow"),
        unreached(errors.UnreachableError), unreached(errors.RemoteTimeoutError), lost(reached=False), KeyboardInterrupt(),
    ],
    ids=lambda error: f"{type(error).__name__}-{getattr(error, 'reached', '')}",
)  # fmt: skip
def test_what_would_come_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        run(monkeypatch, [error])
    assert caught.value is error


def test_a_changed_host_key_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.HostKeyError):
        run(monkeypatch, [lost(), 7], unreached(errors.HostKeyError))


def test_a_login_that_stays_refused_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [unreached(errors.AuthenticationError) for _ in range(10)]
    with pytest.raises(errors.AuthenticationError):
        run(monkeypatch, [lost(), 7], *refused, on=On(host="dev", patience_s=3600.0))


@pytest.mark.parametrize("on", [On(host="dev", patience_s=0.0), On(host="local")])
def test_no_patience(monkeypatch: pytest.MonkeyPatch, on: On) -> None:
    with pytest.raises(errors.ConnectionLostError):
        run(monkeypatch, [lost(), 7], "a", on=on)
