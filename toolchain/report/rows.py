"""Rows of the report's tables, ready to print."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.report.columns import Column, columns_of, footnotes_of, milliseconds
from toolchain.report.headline import points
from toolchain.report.summary import Bounded, EngineSamples, Sensitivity, Summary
from toolchain.report.variant import Variant

METRIC_NAMES = {"map50": "mAP50", "map50_95": "mAP50-95"}
SMALLER_IS_SHOWN_AS_SHARE = ("size_bytes", "params", "gmacs", "energy_mj")


@dataclass(frozen=True)
class Cell:
    """A value, the small print below it, and the number of its footnote (0: none)."""

    text: str
    below: str = ""
    note: int = 0


def table_rows(variants: Sequence[Variant]) -> list[tuple[str, list[Cell]]]:
    """Label and cells of each variant, with the change against the first one."""
    notes = footnotes_of(variants)
    return [
        (
            variant.label,
            [
                Cell(column.cell(variant), _below(column, variant, variants[0]), notes.marks.get((row, column.field), 0))
                for column in columns_of(variants)
            ],
        )
        for row, variant in enumerate(variants)
    ]


def _below(column: Column, variant: Variant, dense: Variant) -> str:
    if column.interval:
        return column.interval_cell(variant)
    value, before = getattr(variant, column.field), getattr(dense, column.field)
    if variant is dense or value is None or before is None:
        return ""
    if column.field in SMALLER_IS_SHOWN_AS_SHARE:
        change = round((value / before - 1) * 100)
        return f"{change:+d} %".replace("-", "−") if change else "±0 %"
    return points(value - before).removesuffix(" points")


@dataclass(frozen=True)
class ClassRow:
    """One class and its mAP50-95 in each variant, None where not measured."""

    name: str
    values: list[float | None]


def class_rows(variants: Sequence[Variant]) -> list[ClassRow]:
    """The class that lost most first; in the order given where there is nothing to compare."""
    names = list(dict.fromkeys(name for variant in variants for name in variant.per_class or {}))
    rows = [ClassRow(name, [(variant.per_class or {}).get(name) for variant in variants]) for name in names]

    def change(row: ClassRow) -> float:
        known = [value for value in row.values if value is not None]
        return known[-1] - known[0] if known else 0.0

    return sorted(rows, key=change)


@dataclass(frozen=True)
class EngineRow:
    """Latency statistics of one engine, its colour, and how many runs took more than twice the median."""

    label: str
    series: int
    n: int
    percentiles: list[Cell]
    maximum: str
    slow: int


PERCENTILES = ("p50", "p90", "p95", "p99")


def engine_rows(engines: Sequence[EngineSamples], series: Mapping[str, int]) -> list[EngineRow]:
    """The benchmark's own percentiles and intervals; one that the samples cannot bound prints as a dash."""
    rows = []
    for engine in engines:
        found = engine.latency_ms
        cells = [_bounded(getattr(found, name)) for name in PERCENTILES]
        rows.append(EngineRow(engine.label, series[engine.label], found.n, cells, milliseconds(found.max), found.slow_count))
    return rows


def _bounded(item: Bounded) -> Cell:
    known = item.low is not None and item.high is not None
    below = f"{milliseconds(item.low)}–{milliseconds(item.high)}" if known else ""  # type: ignore[arg-type]
    return Cell("–" if item.value is None else milliseconds(item.value), below)


@dataclass(frozen=True)
class Heat:
    """Sensitivity as a grid: a row per group, a column per kept share; `depth` is 0..1, how dark a cell is."""

    metric: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, float] | None]]]


def heats(items: Sequence[Sensitivity]) -> list[Heat]:
    """A grid per metric, groups in the order given."""
    return [_heat([item for item in items if item.metric == metric]) for metric in dict.fromkeys(item.metric for item in items)]


def _heat(items: Sequence[Sensitivity]) -> Heat:
    ratios = sorted({item.kept_ratio for item in items}, reverse=True)
    drops = {(item.group, item.kept_ratio): item.drop for item in items}
    worst = max(max(drops.values()), 1e-12)
    rows = []
    for group in dict.fromkeys(item.group for item in items):
        found = [drops.get((group, ratio)) for ratio in ratios]
        cells = [None if drop is None else (f"{drop:.3f}".replace("-", "−"), max(0.0, drop) / worst) for drop in found]
        rows.append((group, cells))
    metric = METRIC_NAMES.get(items[0].metric, items[0].metric)
    return Heat(metric, [f"{ratio * 100:.0f} %" for ratio in ratios], rows)


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 05 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def evidence(summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """Blocks of name and value that say under which conditions the numbers hold."""
    return [
        ("Accuracy", _accuracy_facts(summary)),
        ("Latency", _latency_facts(summary)),
        ("INT8", _int8_facts(summary)),
        ("Cut", _cut_facts(summary)),
        ("Device", flatten(summary.bench.device) if summary.bench and summary.bench.device else []),
        ("Versions", [(name, version or "not installed") for name, version in summary.versions.items()]),
    ]


def _known(pairs: Sequence[tuple[str, object]]) -> list[tuple[str, str]]:
    return [(name, "not recorded" if value is None else str(value)) for name, value in pairs]


def _accuracy_facts(summary: Summary) -> list[tuple[str, str]]:
    model, data = summary.model, summary.data
    facts: list[tuple[str, object]] = []
    if model is not None:
        facts += [("model", model.source), ("model sha256", model.sha256), ("image size", model.imgsz and f"{model.imgsz} px")]
        facts += [("classes", None if model.names is None else str(len(model.names)))]
    if data is not None:
        shared = data.shared_with_train
        said = "not checked" if shared is None else "none" if shared == 0 else f"{shared}: mAP is too high"
        facts += [("data", data.yaml), ("data sha256", data.sha256), ("split", data.split), ("images", data.images)]
        facts += [("images also trained on", said)]
    return _known(facts)


def _latency_facts(summary: Summary) -> list[tuple[str, str]]:
    bench = summary.bench
    if bench is None:
        return []
    valid = "not checked" if bench.valid is None else "yes" if bench.valid else "no"
    facts: list[tuple[str, object]] = [("valid", valid)]
    facts += [("reason", reason) for reason in bench.reasons]
    facts += [("provider", bench.provider), ("threads", bench.threads), ("runtime version", bench.runtime_version)]
    facts += [(f"A/A control, {name}", value) for name, value in flatten(bench.control or {})]
    facts += [(f"engine sha256, {engine.label}", engine.sha256) for engine in bench.engines if engine.sha256]
    return _known(facts) + [pair for name, value in (bench.model_extra or {}).items() for pair in flatten({name: value})]


def _int8_facts(summary: Summary) -> list[tuple[str, str]]:
    int8 = summary.int8
    if int8 is None:
        return []
    maps = [("mAP50-95 before", int8.float_map), ("mAP50-95 after", int8.int8_map), ("largest drop allowed", int8.max_drop)]
    shown = [(name, None if value is None else f"{value:.3f}") for name, value in maps]
    return _known([("recipe", int8.recipe), ("calibration images", int8.images), *shown])


def _cut_facts(summary: Summary) -> list[tuple[str, str]]:
    prune = summary.prune
    if prune is None:
        return []
    asked = prune.asked if isinstance(prune.asked, dict) else {"budget": prune.asked}
    facts = [("criterion", prune.criterion), ("strategy", prune.strategy), ("channels in multiples of", prune.alignment)]
    reached = {name.removesuffix("_ratio"): value for name, value in prune.reached.model_dump().items()}
    kept = [(f"kept, {name}", None if value is None else f"{value * 100:.1f} %") for name, value in reached.items()]
    return _known([*facts, *((f"asked, {name}", value) for name, value in flatten(asked)), *kept])


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as dotted names and text; a missing one reads "not recorded"."""
    pairs: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            pairs += flatten(item, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list | tuple) else "not recorded" if item is None else str(item)
            pairs.append((prefix + str(name), text or "none"))
    return pairs


def reproduce(summary: Summary) -> list[tuple[str, str]]:
    """What each command is for, and the command."""
    steps = []
    if summary.model is not None and summary.model.sha256:
        line = f"{summary.model.sha256}  {summary.model.source}"
        steps.append(("The same model: this must say OK", f"echo {shlex.quote(line)} | sha256sum --check"))
    steps.append(("The same run, with the versions listed above", summary.command))
    return steps
