"""The report: one HTML file that loads nothing, works offline, on a phone, on paper, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.report.charts import NARROW, WIDE, accuracy_against_latency, distribution, training
from toolchain.report.columns import columns_of, footnotes_of
from toolchain.report.headline import headline, tiles
from toolchain.report.rows import PERCENTILES, class_rows, duration, engine_rows, evidence, heats, reproduce, table_rows
from toolchain.report.samples import load_samples
from toolchain.report.summary import Summary, parse_summary
from toolchain.stage import write_bytes

TEMPLATE = "report.html.j2"
SLOWEST = 12


def write_report(summary: Mapping[str, Any], out: Path) -> None:
    """Write the report of a run.

    Args:
        summary: contents of `summary.json`; see `Summary`. Paths of raw samples are relative to `out`'s folder.
        out: the .html file, replaced in one step.

    Raises:
        RunFolderError: the summary does not fit its schema, or a file of raw samples is damaged.
        MeasurementError: a variant holds a value no measurement can give.
        DiskFullError: no space left.
    """
    write_bytes(out, render(parse_summary(summary), out.parent).encode())


def render(summary: Summary, folder: Path) -> str:
    """The page as text; raw samples are looked for in `folder`."""
    return str(environment().get_template(TEMPLATE).render(_context(summary, folder)))


def environment() -> Any:
    """Where the pages' templates are found, and what they may call."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("toolchain.report", package_path="")
    env = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters.update(duration=duration, short=lambda name: name.removesuffix(".conv"))
    return env


def _context(summary: Summary, folder: Path) -> dict[str, Any]:
    samples, absent = load_samples(summary.bench, folder)
    engines = summary.bench.engines if summary.bench else []
    colours = {variant.label: row for row, variant in enumerate(summary.variants)}
    series = {engine.label: colours.get(engine.label, len(colours) + row) for row, engine in enumerate(engines)}
    return {
        "s": summary,
        "headline": headline(summary),
        "tiles": tiles(summary),
        "columns": columns_of(summary.variants),
        "rows": table_rows(summary.variants),
        "notes": footnotes_of(summary.variants).texts,
        "scatter": both(lambda width: accuracy_against_latency(summary.variants, width)),
        "distribution": both(lambda width: distribution(list(samples.items()), [series[label] for label in samples], width)),
        "percentiles": PERCENTILES,
        "engines": engine_rows(engines, series),
        "absent_samples": absent,
        "curves": _training(summary),
        "widest": max((layer.dense for layer in summary.layers), default=1),
        "slowest": sorted(summary.profile, key=lambda row: -row.pruned_ms)[:SLOWEST],
        "profiled_ms": (sum(row.dense_ms for row in summary.profile), sum(row.pruned_ms for row in summary.profile)),
        "heat": heats(summary.sensitivity or []),
        "classes": class_rows(summary.variants),
        "longest_s": max((stage.duration_s for stage in summary.stages), default=0) or 1,
        "total_s": sum(stage.duration_s for stage in summary.stages),
        "evidence": evidence(summary),
        "reproduce": reproduce(summary),
    }


def both(draw: Any) -> list[Any]:
    """The picture for a wide and for a narrow screen; empty if there is nothing to draw."""
    return [chart for chart in (draw(WIDE), draw(NARROW)) if chart is not None]


def _training(summary: Summary) -> list[list[Any]]:
    """A picture of mAP and one of loss, as far as they were recorded."""
    if summary.training is None:
        return []
    found = []
    for name, title in (("map50_95", "mAP50-95"), ("loss", "training loss")):
        curve = [(epoch.epoch, getattr(epoch, name)) for epoch in summary.training.curve if getattr(epoch, name) is not None]
        best = summary.training.best_epoch
        found.append(both(lambda width, c=curve, t=title, b=best: training(c, t, b, width / 2 - 10 if width > NARROW else width)))
    return [pictures for pictures in found if pictures]
