"""The measured quantities a comparison shows, and how each is written; shared by the terminal table and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolchain.report.variant import Interval, Variant

MISSING = "–"


def megabytes(size_bytes: float) -> str:
    """Size in MB (10^6 bytes), three significant digits or so."""
    value = size_bytes / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def milliseconds(latency_ms: float) -> str:
    """Latency with three significant digits or so."""
    return f"{latency_ms:.0f}" if latency_ms >= 100 else f"{latency_ms:.1f}" if latency_ms >= 10 else f"{latency_ms:.2f}"


def times(speedup: float) -> str:
    """Speed-up as 2.31×."""
    return f"{speedup:.2f}×"


@dataclass(frozen=True)
class Column:
    """One measured quantity: its field, name, heading of two lines, and how it and its interval are written."""

    field: str
    name: str
    heading: str
    write: Callable[[float], str]
    interval: str = ""
    unit: str = ""

    def cell(self, variant: Variant) -> str:
        """The value as text; the dash if it is missing."""
        value = getattr(variant, self.field)
        return MISSING if value is None else self.write(value)

    def interval_cell(self, variant: Variant) -> str:
        """The 95 % interval as text, empty if there is none."""
        bounds: Interval | None = getattr(variant, self.interval) if self.interval else None
        return "" if bounds is None else f"{self.write(bounds[0]).rstrip('×')}–{self.write(bounds[1])}"


COLUMNS = (
    Column("size_bytes", "size", "Size\nMB", megabytes, unit="MB"),
    Column("params", "params", "Params\nM", lambda count: f"{count / 1e6:.2f}", unit="M"),
    Column("gmacs", "GMACs", "GMACs", lambda gmacs: f"{gmacs:.2f}" if gmacs >= 0.1 else f"{gmacs:.3f}"),
    Column("map50", "mAP50", "mAP50", lambda share: f"{share:.3f}"),
    Column("map50_95", "mAP50-95", "mAP\n50-95", lambda share: f"{share:.3f}"),
    Column("latency_ms", "latency", "Latency\nms p50", milliseconds, "latency_interval_ms", unit="ms"),
    Column("speedup", "speed-up", "Speed-up", times, "speedup_interval"),
)
ENERGY = Column("energy_mj", "energy", "Energy\nmJ", milliseconds, unit="mJ")


def columns_of(variants: Sequence[Variant]) -> list[Column]:
    """The columns to show: energy only where somebody measured it or says why not."""
    energy = any(variant.energy_mj is not None or "energy_mj" in variant.why for variant in variants)
    return [*COLUMNS, ENERGY] if energy else list(COLUMNS)


@dataclass(frozen=True)
class Footnotes:
    """Reasons of missing values: rows that lack the same for the same reason share a note.

    Attributes:
        marks: (row, field) -> number of its note, from 1.
        texts: the notes in order.
    """

    marks: dict[tuple[int, str], int]
    texts: list[str]


def footnotes_of(variants: Sequence[Variant]) -> Footnotes:
    """Number the reasons in reading order."""
    marks: dict[tuple[int, str], int] = {}
    notes: dict[tuple[str, str], list[str]] = {}
    for row, variant in enumerate(variants):
        missing = [column for column in columns_of(variants) if getattr(variant, column.field) is None]
        for reason in dict.fromkeys(variant.reason(column.field) for column in missing):
            columns = [column for column in missing if variant.reason(column.field) == reason]
            key = (", ".join(column.name for column in columns), reason)
            notes.setdefault(key, []).append(variant.label)
            marks |= {(row, column.field): list(notes).index(key) + 1 for column in columns}
    texts = [f"{', '.join(labels)}: {names} not measured: {reason}" for (names, reason), labels in notes.items()]
    return Footnotes(marks, texts)
