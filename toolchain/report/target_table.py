"""Targets for people: all in a table, one as a page with the source of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

REFRESH = {"read": "told by the driver", "measure": "to be measured"}
ROLES = {"total": "the total", "+": "summed into the total", "info": "recorded only"}
APART = ("name", "title", "verified_on_hardware", "sources", "channel_alignment", "stack", "power")
UNCONFIRMED = "unconfirmed"
Row = tuple[str, str, str]


def targets_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    """One row a target.

    Args:
        targets: what `toolchain targets NAME --json` prints, of each.
    """
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption = Text("one of them whole, with the source of every value: toolchain targets NAME")
    for title in ("target", "runtimes", "precisions", "power", "verified"):
        table.add_column(title, no_wrap=title != "target", min_width=24 if title == "target" else None)
    for target in targets:
        name = Text(target["name"]).append("\n" + target["title"].partition(" (")[0], style="dim")
        runtimes, precisions = "\n".join(target["runtimes"]), _pairs(target["precisions"])
        table.add_row(name, runtimes, precisions, power_scope(target), "yes" if target["verified_on_hardware"] else "no")
    return table


def _pairs(words: Sequence[str]) -> str:
    """Two a line."""
    return "\n".join(" ".join(words[start : start + 2]) for start in range(0, len(words), 2))


def power_scope(target: Mapping[str, Any]) -> str:
    """Of the built-in reading, or that there is none."""
    scopes = [source["scope"] for source in target["power"]["source"] if set(source["rails"].values()) != {"info"}]
    return scopes[0] if scopes else "external meter"


def target_page(target: Mapping[str, Any]) -> Table:
    """Every value of one target beside its source.

    Args:
        target: what `toolchain targets NAME --json` prints.
    """
    verified = "verified on hardware" if target["verified_on_hardware"] else "not verified on hardware by this project"
    title = Text(f"{target['name']}: {target['title']}\n{verified}")
    table = Table(box=box.SIMPLE, title=title, title_justify="left", pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold", ratio=1)
    table.add_column("source", overflow="fold", ratio=1)
    for block in (_plain(target), _published(target), _stacks(target), _power(target), _throttle(target), _clock_files(target)):
        above = ""
        for key, value, source in block:
            said = "as above" if source == above else source
            table.add_row(Text(key), Text(value), Text(said, style="yellow" if UNCONFIRMED in source else "dim"))
            above = source
        table.add_section()
    return table


def _plain(target: Mapping[str, Any]) -> Iterator[Row]:
    yield "channel_alignment", str(target["channel_alignment"]), "the widest of alignment"
    for key, value in target.items():
        if key not in APART:
            yield from _rows(key, value, target["sources"])


def _rows(key: str, value: Any, sources: Mapping[str, str]) -> Iterator[Row]:
    """A row, or one for each key of a table; what is not set has none, and lists of tables are shown elsewhere."""
    if isinstance(value, Mapping) and not _numbers(value):
        for name, inner in value.items():
            yield from _rows(f"{key}.{name}", inner, sources)
    elif value not in (None, [], {}) and not (isinstance(value, list) and isinstance(value[0], Mapping)):
        yield key, _shown(value), _source(key, sources)


def _numbers(value: Mapping[str, Any]) -> bool:
    """Names with numbers, as alignment: one row is enough."""
    return all(isinstance(inner, int | float) for inner in value.values())


def _source(key: str, sources: Mapping[str, str]) -> str:
    while key not in sources and "." in key:
        key = key.rpartition(".")[0]
    return sources.get(key, "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        long = any(isinstance(item, str) and " " in item for item in value)
        return ("\n" if long else ", ").join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _published(target: Mapping[str, Any]) -> Iterator[Row]:
    for figure in target["published"]:
        what = f"{figure['network']}, {figure['precision']}"
        yield "published", f"{figure['runtime']}: {figure['latency_ms']:g} ms ({what})", figure["source"]


def _stacks(target: Mapping[str, Any]) -> Iterator[Row]:
    for stack in target["stack"]:
        l4t = "" if stack["l4t"] is None else f" (L4T {' to '.join(dict.fromkeys(stack['l4t']))})"
        yield "stack", f"{stack['name']}{l4t}\n{_shown(stack['versions'])}", stack["source"]


def _power(target: Mapping[str, Any]) -> Iterator[Row]:
    power = target["power"]
    if power["reason"]:
        yield "power", f"not measured: {power['reason']}\n{power['detail']}", _source("power.reason", target["sources"])
    for number, source in enumerate(power["source"], 1):
        where = ", ".join(source["chips"] or source["paths"])
        lines = [f"{source['scope']}: {source['kind']} {where}".rstrip(), source["reads"]]
        lines += [f"{ROLES[role]}: {', '.join(names)}" for role, names in _by_role(source["rails"]).items()]
        refresh = REFRESH.get(source["update_ms"]) or f"{source['update_ms']:g} ms"
        lines.append(f"refresh: {refresh}; polled up to {source['max_hz']:g} Hz")
        if source["requires"]:
            lines.append(f"needs {source['requires']}")
        error = [f"{source['error_percent']:g} %"] if source["error_percent"] else []
        error += [f"{source['error_w']:g} W"] if source["error_w"] else []
        lines.append(f"its own error: {'at most ' + ' + '.join(error) if error else 'not known'}")
        if source["excludes"]:
            lines.append(f"does not see: {', '.join(source['excludes'])}")
        yield f"power.source {number}", "\n".join(lines), source["source"]


def _by_role(rails: Mapping[str, str]) -> dict[str, list[str]]:
    return {role: names for role in ROLES if (names := [name for name, its in rails.items() if its == role])}


def _throttle(target: Mapping[str, Any]) -> Iterator[Row]:
    for sign in (target["sensors"] or {}).get("throttle", []):
        where = sign["type"] or sign["program"] or sign["hwmon"] or ""
        lines = [f"{sign['kind']} {where}".rstrip(), *sign["files"], *sign["paths"]]
        lines += [f"bit {bit}: {meaning}" for bit, meaning in sign["bits"].items()]
        lines.append("makes a measurement invalid" if sign["fatal"] else "is noted")
        yield "sensors.throttle", "\n".join(lines), sign["source"]


def _clock_files(target: Mapping[str, Any]) -> Iterator[Row]:
    for file in (target["clocks"] or {}).get("file", []):
        need = f" (needs {file['requires']})" if file["requires"] else ""
        yield f"clocks.file {file['unit']}", f"{', '.join(file['paths'])} Hz{need}", file["source"]
