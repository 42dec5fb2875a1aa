"""An examination of a host for people: facts in a table, then what is wrong with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {"unfit": "bold red", "warning": "yellow", "note": "cyan"}
GIB, MIB = 1 << 30, 1 << 20
NOW = (("now", "cur_mhz"), ("measured", "measured_mhz"))
Row = tuple[str, str]


def doctor_page(exam: Mapping[str, Any]) -> RenderableType:
    """Everything.

    Args:
        exam: what `toolchain doctor --json` prints.
    """
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold", ratio=1)
    for block in (_device(exam), _software(exam), _state(exam), _throttle(exam["state"]), _sensors(exam)):
        for name, value in block:
            table.add_row(Text(name), Text(value))
        table.add_section()
    return Group(Text(f"\n{exam['host']}", style="bold"), table, *_findings(exam))


def _device(exam: Mapping[str, Any]) -> Iterator[Row]:
    probe = exam["probe"]
    said = "named" if exam["named"] else "recognised"
    yield "target", f"{exam['target']} ({said})" if exam["target"] else "none fits"
    evidence = [text for fit in exam["match"]["fits"] if fit["target"] == exam["target"] for text in fit["evidence"]]
    yield "evidence", "; ".join(evidence or exam["match"]["device"])
    yield "processor", f"{probe['cpu_model'] or 'unknown'}, {probe['cores']} cores, {' '.join(probe['cpu_flags'] or [])}"
    if probe["gpus"] or probe["accelerators"]:
        yield "accelerators", ", ".join([gpu["name"] for gpu in probe["gpus"] or []] + (probe["accelerators"] or []))


def _software(exam: Mapping[str, Any]) -> Iterator[Row]:
    probe = exam["probe"]
    release = " ".join(filter(None, (exam["release"], probe["l4t"] and f"L4T {probe['l4t']}")))
    yield "system", ", ".join(filter(None, (release, probe["kernel"], f"Python {probe['python']} ({probe['executable']})")))
    if exam["installed"]:
        used = "--python is needed" if exam["host"] == "local" else "used by itself where no --python is given"
        yield "installed now", f"--python {exam['installed']} ({used})"
    for name, about in probe["runtimes"].items():
        why = probe["unreadable"].get(f"runtimes.{name}", "missing")
        yield name, f"{about['version']} ({', '.join(about['providers'])})" if about else f"not there: {why}"
    if probe["packages"]:
        yield "packages", ", ".join(f"{name} {version}" for name, version in probe["packages"].items())


def _state(exam: Mapping[str, Any]) -> Iterator[Row]:
    state, why = exam["state"], exam["state"]["unreadable"]
    if state["power_mode"]:
        yield "power mode", f"{state['power_mode']['name']} (id {state['power_mode']['id']}, by {state['power_mode']['source']})"
    turbo = "" if state["turbo"] is None else f", turbo {'on' if state['turbo'] else 'off'}"
    yield "governor", f"{state['governor']}{turbo}" if state["governor"] else f"not readable: {why.get('governor')}"
    yield from _clocks(state["clocks"] or {})
    yield "temperature", _pairs(state["temperature_c"], "{:.1f} C") or f"not readable: {why.get('temperature_c')}"
    silent = [name.partition(".")[2] for name in why if name.startswith("temperature_c.")]
    if silent:
        yield "no answer from", ", ".join(silent)
    if state["fans"]:
        yield "fans", ", ".join(f"{name} at {fan['pwm']} of 255" for name, fan in state["fans"].items())
    yield "memory", f"{_size(state['memory_free_bytes'])} free of {_size(exam['probe']['memory_total_bytes'])}"
    if state["swap_total_bytes"]:
        yield "swap", f"{_size(state['swap_free_bytes'])} free of {_size(state['swap_total_bytes'])}"
    yield "disk", f"{_size(state['disk_free_bytes'])} free"
    others = ", ".join(f"{one['name']} ({one['pid']}) {one['cpu_percent']:.0f} %" for one in state["busy"])
    yield "other load", others or "none seen"


def _throttle(state: Mapping[str, Any]) -> Iterator[Row]:
    if state["throttle"] is None:
        yield "throttling", f"not readable: {state['unreadable'].get('throttle')}"
        return
    risen = [f"{name} {sign['value']}" for name, sign in state["throttle"].items() if sign["value"]]
    yield "throttling", f"{', '.join(risen) or 'none now, none since it booted'} ({len(state['throttle'])} signs read)"
    lost = [f"{name.partition('.')[2]}: {why}" for name, why in state["unreadable"].items() if name.startswith("throttle.")]
    if lost:
        yield "not readable", "; ".join(lost)


def _sensors(exam: Mapping[str, Any]) -> Iterator[Row]:
    for reading in exam["power"]:
        unit = reading["unit"]
        refresh = f", a new value every {1000 * reading['refresh_s']:.0f} ms" if reading["refresh_s"] else ""
        shown = _pairs({name: value for name, value in reading["last"].items() if value is not None}, "{:.3f} " + unit)
        text = f"{shown}{refresh}" if reading["readable"] else f"not readable: {reading['detail']}"
        yield f"power {reading['kind']}", f"{text} ({reading['scope']})"
    if exam["no_power"]:
        yield "energy", f"not measured: {exam['no_power']}"
    clock = exam["clock"]
    yield (
        "clock",
        f"{clock['unix_s'] * 1000:+.1f} ms from this host's, within {clock['error_s'] * 1000:.1f} ms ({clock['stamps']} stamps)",
    )


def _findings(exam: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in exam["findings"]:
        text = Text(finding["what"], style="bold")
        text.append(f": {finding['why']}" if finding["why"] else "", style="not bold")
        command = finding["command"]
        if command:
            where = "here" if command.startswith("toolchain") or exam["host"] == "local" else f"on {exam['host']}"
            text.append(f"\n{where}: {command}", style="not bold green")
        table.add_row(Text(finding["severity"], style=STYLES[finding["severity"]]), text)
    yield table
    verdict = "fit: a measurement can be trusted" if exam["fit"] else "not fit: mend what is marked unfit first"
    yield Text(f"\n{verdict}", style="bold green" if exam["fit"] else "bold red")


def _clocks(clocks: Mapping[str, Any]) -> Iterator[Row]:
    """Clocks of the same unit and limits share a row."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, clock in clocks.items():
        alike.setdefault((name.partition(" ")[0], clock["min_mhz"], clock["max_mhz"]), []).append(name)
    for (_, low, high), names in alike.items():
        span = "limits unknown" if None in (low, high) else f"held at {low:g} MHz" if low == high else f"{low:g} to {high:g} MHz"
        said = [span, *(_range(title, [clocks[name][key] for name in names]) for title, key in NOW)]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield names[0] + more, ", ".join(filter(None, said))


def _range(title: str, values: list[float | None]) -> str:
    found = sorted({value for value in values if value is not None})
    if not found:
        return ""
    return f"{title} {found[0]:g}" + (f" to {found[-1]:g}" if len(found) > 1 else "")


def _pairs(values: Mapping[str, float] | None, form: str) -> str:
    return ", ".join(f"{name.partition(':')[0]} {form.format(value)}" for name, value in (values or {}).items())


def _size(value: int | None) -> str:
    if value is None:
        return "?"
    return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value // MIB} MiB"
