"""The page of a selection: what was chosen, what it was measured to do, and why. Rendered from `select.json` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.report.charts import NARROW, WIDE
from toolchain.report.columns import milliseconds
from toolchain.report.headline import Tile
from toolchain.report.html import both, environment
from toolchain.report.rows import flatten
from toolchain.report.select_charts import INTERVAL, agreement_chart, front_chart, stairs_chart
from toolchain.report.selected import Agreement, Model, Selection, Stairs, parse_selection
from toolchain.stage import write_bytes

TEMPLATE = "select.html.j2"
FILE = "select.html"
TRUSTED = 0.9  # rank correlation from which the sum is called a good order
LOSS_NAMES = {"measured": "rise of the detection loss", "fisher": "saliency", "remaining": "saliency by what is left"}


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the page.

    Args:
        result: contents of `select.json`.
        path: the .html file, replaced in one step.

    Raises:
        RunFolderError: `result` is not a selection's.
        DiskFullError: no space left.
    """
    write_bytes(path, render(parse_selection(result)).encode())


def render(found: Selection) -> str:
    """The page as text."""
    env = environment()
    env.filters.update(ms=milliseconds, percent=percent, number=number, minus=lambda text: text.replace("-", "−"))
    return str(env.get_template(TEMPLATE).render(_context(found)))


def _context(found: Selection) -> dict[str, Any]:
    cut = [layer for layer in found.layers if layer.kind != "frozen"]
    return {
        "s": found,
        "title": f"Selection of {Path(found.model).name}" if found.model else "Selection",
        "headline": headline(found),
        "tiles": tiles(found),
        "loss_name": LOSS_NAMES.get(found.value.kind, "predicted loss") if found.value else "predicted loss",
        "interval": INTERVAL,
        "own": found.share / found.uncut,
        "layers": cut,
        "frozen": [layer for layer in found.layers if layer.kind == "frozen"],
        "measured_stairs": any(one.points for one in found.staircase.stairs),
        "trials": any(candidate.trial_map is not None for candidate in found.candidates),
        "widest": max((layer.channels for layer in cut), default=1),
        "most_lost": max((layer.loss_share for layer in cut), default=0) or 1,
        "most_saved": max((layer.saved_share for layer in cut), default=0) or 1,
        "saved": sum(layer.saved for layer in cut),
        "front": _front(found),
        "failed": [
            (", ".join(share for share, why in found.front.failed.items() if why == reason), reason)
            for reason in dict.fromkeys(found.front.failed.values())
        ],
        "stairs": _stairs(found),
        "dropped": sum(map(len, found.staircase.dropped.values())),
        "agreement": both(lambda width: agreement_chart(found.value, width)) if found.value else [],
        "agreement_words": agreement(found.value) if found.value else "",
        "evidence": evidence(found),
        "reproduce": [("The same selection; timings that are in the store are not made again", found.command)]
        if found.command
        else [],
    }


def _front(found: Selection) -> list[Any]:
    ms = found.dense_ms
    return [] if ms is None else both(lambda width: front_chart(found.front, found.rounds, found.share / found.uncut, ms, width))


def _stairs(found: Selection) -> list[tuple[str, list[Any]]]:
    """Group and its picture, two in a row on a wide screen."""
    ms, channels = found.dense_ms, {layer.group: layer.channels for layer in found.layers}
    block = 1 if found.staircase.exact_reads else found.staircase.block  # with those the steps are slopes

    def drawn(one: Stairs, dense_ms: float) -> list[Any]:
        half = {WIDE: WIDE / 2 - 10, NARROW: NARROW}
        return both(lambda width: stairs_chart(one, block, channels.get(one.group, one.widths[-1]), dense_ms, half[width]))

    return [] if ms is None else [(one.group, drawn(one, ms)) for one in found.staircase.stairs]


def headline(found: Selection) -> list[str]:
    """Sentences: what was reached and asked, what it costs, how well it was predicted."""
    reached = f"{found.measured:.3f} of the dense engine's latency, measured"
    asked = f"asked for {' and '.join(found.budgets)}" if found.budgets else f"asked for at most {found.share:.3f}"
    sentences = [f"{reached}; {asked}."]
    last = found.rounds[-1]
    if found.dense_ms is not None:
        ms, dense = last.measured * found.dense_ms, found.dense_ms
        sentences.append(
            f"{milliseconds(ms)} ms (95 % interval {interval(ms, last.error)}) against {milliseconds(dense)} ms dense, in turns."
        )
    turns = "the first plan" if len(found.rounds) == 1 else f"plan {len(found.rounds)}"
    off = last.measured / last.predicted - 1
    sentences.append(
        f"Met by {turns}: the latency model had predicted it {percent(abs(off))} too {'fast' if off > 0 else 'slow'}."
    )
    return sentences


def tiles(found: Selection) -> list[Tile]:
    """The numbers a reader looks for first."""
    last, size = found.rounds[-1], found.reached
    asked = f"budget {found.share:.3f}" if found.limited else f"predicted {found.share:.3f}; not limited"
    kept = [Tile(f"{found.measured:.3f}", "of the dense latency", asked)]
    if found.energy is not None and "energy" in last.others:
        told, dense = last.others["energy"], found.energy.dense_mj
        detail = f"budget {found.energy.share:.3f}; ± {percent(2 * told['error'])}; dense: {dense:.3g} mJ, {found.energy.scope}"
        kept.append(Tile(f"{told['measured']:.3f}", "of the dense energy", detail))
    if found.dense_ms is not None:
        kept.append(
            Tile(f"{milliseconds(last.measured * found.dense_ms)} ms", "measured", f"dense: {milliseconds(found.dense_ms)} ms")
        )
    if size is not None:
        detail = f"{percent(1 - size.params)} of the weights, {percent(1 - size.channels)} of the channels"
        kept.append(Tile(percent(1 - size.macs), "of the multiply-adds left", detail))
    gap = (
        "no proof of being the best" if last.gap is None else f"proven within {percent(max(last.gap, 0.0))} of the least possible"
    )
    kept.append(Tile(f"{last.loss:.3g}", "predicted loss", gap))
    return kept


def interval(value: float, error: float) -> str:
    """The 95 % interval of a value with a relative standard error."""
    half = INTERVAL * error * value
    return f"{milliseconds(value - half)}–{milliseconds(value + half)}"


def percent(share: float) -> str:
    """12 %, 1.2 %, 0.12 %, < 0.01 %."""
    if 0 < share < 0.0001:
        return "< 0.01 %"
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be read."""
    return f"{value:.3g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.1e}"


def agreement(value: Agreement) -> str:
    """What the picture of sums against whole plans comes to."""
    text = f"{len(value.joint)} random plans were really cut and measured on training pictures."
    if value.spearman is None:
        return text
    ranks = f"Spearman's rank correlation with the sum of the single losses is {value.spearman:.2f}"
    if value.spearman >= TRUSTED:
        return f"{text} {ranks}: the sum orders plans well."
    return f"{text} {ranks}: plans of similar sums may well be in the other order."


def _blocks(model: Model) -> str:
    counted = f"{model.block}, outputs alone" if model.exact_reads else f"{model.block}"
    return f"{counted}; what is left over of {model.ragged} outputs takes longer" if model.ragged else counted


def evidence(found: Selection) -> list[tuple[str, list[tuple[str, str]]]]:
    """Blocks of name and value that say under which conditions the numbers hold."""
    held = found.latency_model.held_out
    model = [] if held is None else [
        ("off on plans not seen", f"{held.mape:.1%} (mean of |predicted / measured − 1|)".replace("%", " %")),
        ("bias", f"{held.bias * 100:+.1f} %".replace("-", "−")),
        ("Kendall τ", f"{held.kendall_tau:.3f}"), ("plans", str(held.plans)),
    ]  # fmt: skip
    model += [
        ("widths in blocks of", _blocks(found.latency_model)), ("drawn to", found.latency_model.prior or "not recorded"),
        ("engines timed", str(found.timings or "not recorded")),
    ]  # fmt: skip
    choice = {"strategy": found.strategy, "criterion": found.criterion, "channels in multiples of": found.align}
    choice |= {
        "loss from": found.value.kind if found.value else None,
        "model": found.model,
        "picture": found.imgsz and f"{found.imgsz} px",
    }
    return [
        ("Latency model", model),
        ("Choice", flatten(choice)),
        ("Setting", flatten({**found.setting, "store of timings": found.store})),
        ("Device", flatten(found.device)),
        ("Versions", [(name, version or "not installed") for name, version in found.versions.items()]),
    ]
