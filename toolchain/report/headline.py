"""What came out, in words with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.report.columns import megabytes, milliseconds
from toolchain.report.summary import Summary
from toolchain.report.variant import Variant


@dataclass(frozen=True)
class Tile:
    """One large number with its explanation."""

    value: str
    name: str
    detail: str


def headline(summary: Summary) -> list[str]:
    """Sentences: speed, accuracy and size of the last variant against the first; a timing that is not valid comes before them."""
    if not summary.variants:
        return ["Nothing was measured in this run."]
    if len(summary.variants) == 1:
        only = summary.variants[0]
        sentences = [f"Only {only.label} was measured: there is nothing to compare it with."]
    else:
        dense, final = summary.variants[0], summary.variants[-1]
        sentences = [_speed(dense, final), _accuracy(dense, final)]
    if _invalid(summary) and summary.bench is not None:
        reasons = "; ".join(summary.bench.reasons) or "no reason recorded"
        sentences = [
            f"No speed-up can be claimed, the timing is not valid: {reasons}.",
            f"Not to be quoted: {sentences[0]}",
            *sentences[1:],
        ]
    if problems := sum(finding.severity == "problem" for finding in summary.diagnosis):
        sentences.append("The diagnosis lists a problem." if problems == 1 else f"The diagnosis lists {problems} problems.")
    return sentences


def _invalid(summary: Summary) -> bool:
    return summary.bench is not None and summary.bench.valid is False


def _speed(dense: Variant, final: Variant) -> str:
    if final.speedup is None:
        return (
            f"Whether {final.label} is faster than {dense.label} is not known; speed-up not measured: {final.reason('speedup')}."
        )
    latencies = ""
    if final.latency_ms is not None and dense.latency_ms is not None:
        latencies = f": {milliseconds(final.latency_ms)} ms against {milliseconds(dense.latency_ms)} ms at the median"
    if final.speedup_interval is None:
        return f"{final.label} reads {final.speedup:.2f}× the speed of {dense.label}, without an interval{latencies}."
    low, high = final.speedup_interval
    interval = f"95 % interval {low:.2f}–{high:.2f}"
    if low > 1:
        return f"{final.label} is {final.speedup:.2f}× as fast as {dense.label} ({interval}){latencies}."
    if high < 1:
        return f"{final.label} is slower than {dense.label}, at {final.speedup:.2f}× its speed ({interval}){latencies}."
    return f"No difference in speed between {final.label} and {dense.label} could be shown: {final.speedup:.2f}× ({interval})."


def _accuracy(dense: Variant, final: Variant) -> str:
    shares = [f"{_percent(new / old)} of the {name}" for new, old, name in _ratios(dense, final)]
    size = f", with {' and '.join(shares)}" if shares else ""
    if final.map50_95 is None or dense.map50_95 is None:
        missing = final if final.map50_95 is None else dense
        return f"The mAP50-95 of {missing.label} was not measured: {missing.reason('map50_95')}{size}."
    change = points(final.map50_95 - dense.map50_95)
    return f"Its mAP50-95 is {final.map50_95:.3f} against {dense.map50_95:.3f} ({change}){size}."


def _ratios(dense: Variant, final: Variant) -> Sequence[tuple[float, float, str]]:
    pairs = ((final.size_bytes, dense.size_bytes, "size"), (final.gmacs, dense.gmacs, "MACs"))
    return [(new, old, name) for new, old, name in pairs if new is not None and old is not None]


def tiles(summary: Summary) -> list[Tile]:
    """The numbers a reader looks for first, of the last variant against the first; those that were measured."""
    if len(summary.variants) < 2:
        return []
    dense, final = summary.variants[0], summary.variants[-1]
    found = []
    if final.speedup is not None and not _invalid(summary):
        interval = final.speedup_interval
        detail = "no interval" if interval is None else f"95 % interval {interval[0]:.2f}–{interval[1]:.2f}"
        found.append(Tile(f"{final.speedup:.2f}×", "speed", detail))
    if final.latency_ms is not None and not _invalid(summary):
        detail = "" if dense.latency_ms is None else f"{dense.label}: {milliseconds(dense.latency_ms)} ms"
        found.append(Tile(f"{milliseconds(final.latency_ms)} ms", "median latency", detail))
    if final.map50_95 is not None:
        detail = (
            "" if dense.map50_95 is None else f"{dense.label}: {dense.map50_95:.3f} ({points(final.map50_95 - dense.map50_95)})"
        )
        found.append(Tile(f"{final.map50_95:.3f}", "mAP50-95", detail))
    if final.size_bytes is not None:
        detail = "" if dense.size_bytes is None else f"{dense.label}: {megabytes(dense.size_bytes)} MB"
        found.append(Tile(f"{megabytes(final.size_bytes)} MB", "size", detail))
    return found


def points(change: float) -> str:
    """Change of a share in percentage points, with a real minus."""
    text = f"{abs(change) * 100:.1f}"
    return f"{'±' if text == '0.0' else '−' if change < 0 else '+'}{text} points"


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}".replace("%", " %") if ratio >= 0.1 else f"{ratio * 100:.1f} %"
