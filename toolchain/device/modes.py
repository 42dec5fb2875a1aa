"""Power modes and held clocks: set on request, looked at afterwards, put back at the end, whatever the end.

A process on the device keeps the way back: it acts when the agent's session ends, also when this host is killed, the link is lost
or the agent is killed. After a power cut a journal is left in the agent's cache; the next `power_mode` or `heal` does as it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from toolchain import progress
from toolchain.device.lock import BEAT_S, LEASE_S, whoami
from toolchain.device.machine import Device
from toolchain.device.messages import Message, Text, check
from toolchain.device.session import AgentSession
from toolchain.device.target import Target
from toolchain.errors import DeviceError, PowerModeError, UnknownNameError, UsageError

SET_S = 300.0  # nvpmodel takes seconds, and what an unclean end left is put back first


class Names(Message):
    tool: Text
    names: list[Text]
    current: Text | None
    reason: Text | None


class Healed(Message):
    """What an unclean end had left and was put back; `problems` and `commands` where that did not succeed."""

    asked: Text
    who: Text
    since_unix: float
    problems: list[Text]
    commands: list[Text]


class HealAnswer(Message):
    healed: Healed | None


class SetAnswer(Message):
    before: Text | None
    now: Text | None
    refused: Text | None
    command: Text | None
    healed: Healed | None


class RestoreAnswer(Message):
    problems: list[Text]
    commands: list[Text]


@dataclass(frozen=True)
class Mode:
    """The mode a device was in and the one it is in now, by name."""

    before: str | None
    now: str | None


def names(session: AgentSession, target: Target | None = None) -> Names:
    """The power modes this device has now, asked of it; a governor counts as one where there is no nvpmodel."""
    return check(Names, session.request("modes", timeout_s=SET_S, tool=_tool(target)))


def resolve(name: str, known: list[str]) -> str:
    """The device's spelling of a mode given with or without MODE_, in any case.

    Raises:
        UnknownNameError: with the nearest names.
    """
    for one in known:
        if _plain(one) == _plain(name):
            return one
    raise UnknownNameError("power mode", name, known)


@contextmanager
def power_mode(device: Device, target: Target | None, name: str | None, pin: bool = False) -> Iterator[Mode]:
    """Run the block in a power mode, the clocks held if `pin`; then put everything back as it was.

    Args:
        name: of nvpmodel, with or without MODE_; where there is none, a governor. None leaves the mode as it is.
        pin: hold the clocks at the highest of the mode.

    Raises:
        UsageError: neither a mode nor a pin was asked for.
        UnknownNameError: this device has no such mode.
        PowerModeError: not permitted, not taken (a reboot that it asks for is reported, never answered), or not put back;
            with the command for a person.
        DeviceError and its kinds.
    """
    if name is None and not pin:
        raise UsageError("neither a power mode nor held clocks were asked for")
    with device.session() as session:
        known = names(session, target)
        if name is not None and not known.names:
            raise PowerModeError(f"{device.name} has no power modes", got=known.reason)
        wanted = resolve(name, known.names) if name is not None else None
        fields: dict[str, Any] = {
            "name": wanted,
            "pin": _pin(target, known.tool) if pin else None,
            "tool": known.tool,
            "who": whoami(),
        }
        lease_s = None if session.local else LEASE_S
        answer = check(SetAnswer, session.request("set_mode", timeout_s=SET_S, lease_s=lease_s, **fields))
        if answer.healed is not None:
            tell(device.name, answer.healed)
        if answer.refused is not None:
            what = f"{device.name}: the power mode {wanted} was not set" if wanted else f"{device.name}: the clocks were not held"
            raise PowerModeError(what, got=answer.refused, fix=_by_hand(device, [answer.command] if answer.command else []))
        if lease_s is not None:
            session.keep(BEAT_S)
        try:
            yield Mode(answer.before, answer.now)
        except BaseException:
            _restore_after_failure(session)
            raise
        _restore(device, session)


def heal(session: AgentSession) -> Healed | None:
    """Put back what an unclean end left on this device; None where there was nothing, or a living session holds it."""
    return check(HealAnswer, session.request("heal_mode", timeout_s=SET_S)).healed


def tell(host: str, healed: Healed) -> None:
    """Say what was put back."""
    text = f"  {host}: {healed.who} ended without putting back the power mode ({healed.asked})"
    progress.note(f"{text}; " + ("; ".join(healed.problems) if healed.problems else "it is put back now"))


def _restore(device: Device, session: AgentSession) -> None:
    left = check(RestoreAnswer, session.request("restore_mode", timeout_s=SET_S))
    if left.problems:
        got = "; ".join(left.problems)
        raise PowerModeError(f"{device.name}: the power mode was not put back", got=got, fix=_by_hand(device, left.commands))


def _restore_after_failure(session: AgentSession) -> None:
    """The failure is what the user must see; where the session is dead, the keeper on the device acts."""
    try:
        if session.open:
            session.request("restore_mode", timeout_s=SET_S)
    except DeviceError as error:
        progress.note(f"  {session.host}: {error}")


def _by_hand(device: Device, commands: list[str]) -> str:
    if not commands:
        return "see toolchain doctor, or set the mode by hand"
    return f"on {device.name}: {'; '.join(commands)}"


def _plain(name: str) -> str:
    return name.upper().removeprefix("MODE_")


def _tool(target: Target | None) -> str | None:
    return target.mode.tool if target is not None and target.mode is not None else None


def _pin(target: Target | None, tool: str) -> str:
    if target is not None and target.mode is not None:
        return target.mode.pin
    return "jetson_clocks" if tool == "nvpmodel" else "governor"
