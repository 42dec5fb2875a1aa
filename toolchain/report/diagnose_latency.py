"""The checklist of latency: size fell but time did not, INT8 slower than float, a machine too noisy to tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.measurement.stats import control_holds
from toolchain.report.findings import Finding, Severity
from toolchain.report.variant import Interval

NOT_FASTER = 0.95  # of the dense time; a layer above it did not get faster
WORTH_NAMING = 0.01  # of all time; smaller layers are noise
SHOWN_LAYERS = 6
FAIR_SHARE = 0.5  # of the saving in size or MACs that time should follow
CV_LIMIT = 0.025  # trtexec warns at the same value
DRIFT_LIMIT = 0.02
MOVES = {
    "concat", "reorder", "reformat", "transpose", "reshape", "slice", "split", "gather", "resize", "upsample", "pad", "cast",
    "quantizelinear", "dequantizelinear", "reformatcopynode",
}  # fmt: skip
ELEMENTWISE = {
    "add",
    "mul",
    "sub",
    "div",
    "sigmoid",
    "silu",
    "relu",
    "swish",
    "softmax",
    "maxpool",
    "pooling",
    "eltwise",
    "hardswish",
}

COPY, UNCUT, MISALIGNED, MEMORY, LARGE_MAP, UNEXPLAINED = (
    "copies or reorders data",
    "not pruned",
    "misaligned width",
    "bound by memory",
    "large map, few channels",
    "unexplained",
)
NEXT = {
    COPY: "Simplify the graph; keep neighbours in one layout and one precision, so that nothing is copied between them.",
    UNCUT: "Let those layers be cut, unless they are outputs: they were frozen, or the strategy spent the budget elsewhere.",
    MISALIGNED: "Prune again with the alignment of this runtime: an odd width runs the kernel of the next larger one.",
    MEMORY: "Such an operation costs what its data costs: narrow the layers before it, or lower the image size.",
    LARGE_MAP: "On the first maps moving data takes the time: a smaller image size pays more there than fewer channels.",
    UNEXPLAINED: "Profile again on an idle machine; if it stays, the runtime picked another kernel for the new width.",
}


@dataclass(frozen=True)
class LayerTime:
    """One layer of the profiles of the dense and of the pruned engine.

    Attributes:
        op: the runtime's name of the operation, e.g. Conv.
        dense_ms, pruned_ms: fastest of the profiled runs: other work on the machine only adds time.
        dense_channels, kept_channels: output channels; None for an operation without any of its own.
        aligned: the kept width is a multiple of what the runtime wants.
        stride: picture pixels per map pixel, if known.
    """

    layer: str
    op: str
    dense_ms: float
    pruned_ms: float
    dense_channels: int | None = None
    kept_channels: int | None = None
    aligned: bool = True
    stride: int | None = None


def why_not_faster(layer: LayerTime) -> str | None:
    """The likeliest reason a layer takes as long as before; None if it got faster."""
    if layer.pruned_ms <= NOT_FASTER * layer.dense_ms:
        return None
    op = layer.op.lower()
    if op in MOVES:
        return COPY
    if op in ELEMENTWISE:
        return MEMORY
    if layer.dense_channels is not None and layer.kept_channels == layer.dense_channels:
        return UNCUT
    if not layer.aligned:
        return MISALIGNED
    if layer.stride is not None and layer.stride <= 4:
        return LARGE_MAP
    return UNEXPLAINED


def check_latency(size_ratio: float, latency_ratio: float, profile: Sequence[LayerTime] = ()) -> list[Finding]:
    """Whether time followed size, and if not, which layers kept theirs and why.

    Args:
        size_ratio: kept share of MACs (or of bytes), 0..1.
        latency_ratio: pruned latency over dense latency, measured side by side.
        profile: per layer, of both engines; without it the finding can only ask for it.
    """
    numbers: dict[str, float | int | str | None] = {
        "kept of the work": f"{size_ratio:.0%}",
        "kept of the latency": f"{latency_ratio:.0%}",
    }
    saved, expected = 1 - latency_ratio, 1 - size_ratio
    if saved >= FAIR_SHARE * expected or expected <= 0:
        return [Finding("Latency fell with the size", "ok", numbers)]
    severity: Severity = "problem" if saved < 1 - NOT_FASTER else "warning"
    title = "Size fell but latency did not" if severity == "problem" else "Latency fell much less than the size"
    blame, slow = _blame(profile)
    if not slow:
        step = "Profile both engines per layer to see which layers kept their time." if not profile else NEXT[UNEXPLAINED]
        return [Finding(title, severity, numbers, step)]
    numbers |= {f"time of layers: {reason}": f"{ms:.3f} ms" for reason, ms in blame.items()}
    numbers |= {f"{layer.layer} ({layer.op})": _said(layer, reason) for layer, reason in slow[:SHOWN_LAYERS]}
    if len(slow) > SHOWN_LAYERS:
        numbers["further layers"] = len(slow) - SHOWN_LAYERS
    return [
        Finding(
            title,
            "problem" if severity == "problem" else "warning",
            numbers,
            " ".join(NEXT[reason] for reason in list(blame)[:2]),
        )
    ]


def _blame(profile: Sequence[LayerTime]) -> tuple[dict[str, float], list[tuple[LayerTime, str]]]:
    """Time per reason, most first, and the layers, slowest first; layers under 1 % of all time are left out."""
    total_ms = sum(layer.pruned_ms for layer in profile)
    found = [(layer, why_not_faster(layer)) for layer in profile if layer.pruned_ms >= WORTH_NAMING * total_ms]
    slow = sorted(((layer, why) for layer, why in found if why), key=lambda item: -item[0].pruned_ms)
    blame: dict[str, float] = defaultdict(float)
    for layer, reason in slow:
        blame[reason] += layer.pruned_ms
    return dict(sorted(blame.items(), key=lambda item: -item[1])), slow


def _said(layer: LayerTime, reason: str) -> str:
    widths = "" if layer.dense_channels is None else f", {layer.dense_channels} → {layer.kept_channels} channels"
    return f"{layer.dense_ms:.3f} → {layer.pruned_ms:.3f} ms{widths}: {reason}"


def check_int8(
    float_latency_ms: float | None,
    int8_latency_ms: float | None,
    float_map: float | None,
    int8_map: float | None,
    max_drop: float | None = None,
) -> list[Finding]:
    """Whether INT8 pays in time and what it costs in mAP50-95; says nothing about a pair that is not complete."""
    findings = []
    if float_latency_ms is not None and int8_latency_ms is not None:
        ratio = float_latency_ms / int8_latency_ms
        numbers = {"float": f"{float_latency_ms:.3f} ms", "INT8": f"{int8_latency_ms:.3f} ms", "times faster": f"{ratio:.2f}"}
        step = "Deploy the float engine, or look for operations left in float between INT8 ones: each costs two conversions."
        step += " Without INT8 instructions (VNNI, dot product) the processor gains nothing."
        slower = Finding("INT8 is slower than float", "problem", numbers, step)
        findings.append(slower if ratio < 1 else Finding("INT8 is faster than float", "ok", numbers))
    if float_map is not None and int8_map is not None:
        drop = float_map - int8_map
        numbers = {"float": f"{float_map:.3f}", "INT8": f"{int8_map:.3f}", "drop": f"{drop * 100:.1f} points"}
        if max_drop is not None:
            numbers["allowed"] = f"{max_drop * 100:.1f} points"
        step = (
            "Keep everything after the last convs of the head in float, calibrate on more and typical images, try another recipe."
        )
        limit = 0.01 if max_drop is None else max_drop
        costly = Finding(
            f"INT8 costs {drop * 100:.1f} points of mAP50-95", "problem" if max_drop is not None else "warning", numbers, step
        )
        findings.append(costly if drop > limit else Finding("INT8 keeps the accuracy", "ok", numbers))
    return findings


def check_noise(control: Interval | None, *, cv: float | None = None, drift: float | None = None) -> list[Finding]:
    """Whether the machine was quiet enough.

    Args:
        control: 95 % interval of the ratio of an engine to itself; see `control_holds`.
        cv: coefficient of variation of the latencies.
        drift: median of the last third over that of the first, minus 1.
    """
    findings = []
    if control is not None:
        numbers = {"A/A interval": f"{control[0]:.3f}–{control[1]:.3f}"}
        step = "Quote no speed-up. End what else runs here, fix the clocks, let the board cool, measure again with more rounds."
        failed = Finding("The same engine twice did not give the same time", "problem", numbers, step)
        findings.append(Finding("The same engine twice gave the same time", "ok", numbers) if control_holds(*control) else failed)
    if cv is not None and cv > CV_LIMIT:
        step = "Fix the clocks and end other work; the median and its interval stand, a mean would not."
        findings.append(
            Finding("Latencies vary much on this machine", "warning", {"cv": f"{cv:.1%}", "limit": f"{CV_LIMIT:.1%}"}, step)
        )
    if drift is not None and abs(drift) > DRIFT_LIMIT:
        step = "Warm up longer, or cool the board: the machine's speed changed while it was measured."
        findings.append(
            Finding(
                "Latency drifted during the measurement",
                "warning",
                {"drift": f"{drift:+.1%}", "limit": f"{DRIFT_LIMIT:.0%}"},
                step,
            )
        )
    return findings
