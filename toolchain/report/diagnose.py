"""The checklist after a cut: pure functions from measured facts to findings. Thresholds are choices, named below.

Nothing here measures, and nothing is said about what was not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolchain.report.findings import Finding

CONFIDENT = 0.25  # score of a candidate that counts as found; ultralytics' default when predicting
COLLAPSE = 0.5  # of the dense network's best score
FLOOD = 10.0  # times the dense network's candidates
LARGE_DROP = 0.10  # of mAP50-95, absolute
RATIO_TOLERANCE = 0.02
NEXT_DEAD = (
    "Recalibrate the batch norms on training images; cut less per step and fine-tune between steps. "
    "If it stays, compare both networks layer by layer: the first one that differs wildly is the cause."
)


@dataclass(frozen=True)
class OutputFacts:
    """What one network put out over a set of pictures.

    Attributes:
        images: pictures.
        confident: candidates with a class score above 0.25, before non-maximum suppression.
        max_score: highest class score; None if none is a number.
        bad_values: values that are NaN or infinite.
        all_zero: every value is 0.
        constant: two or more different pictures gave the same output, bit for bit.
    """

    images: int
    confident: int
    max_score: float | None
    bad_values: int = 0
    all_zero: bool = False
    constant: bool = False


def output_facts(outputs: Iterable[NDArray[np.float32]]) -> OutputFacts:
    """Facts of decoded outputs, an array (n, 4 + classes, anchors) a batch, of pictures that differ from one another."""
    images = confident = bad = 0
    best: float | None = None
    zero, same, first = True, True, None
    for batch in outputs:
        finite = np.isfinite(batch)
        bad += int((~finite).sum())
        scores = np.where(finite[:, 4:], batch[:, 4:], -np.inf).max(axis=1)
        confident += int((scores > CONFIDENT).sum())
        if (top := float(scores.max(initial=-np.inf))) > -np.inf:
            best = top if best is None else max(best, top)
        zero = zero and not batch.any()
        first = batch[:1].copy() if first is None else first
        same = same and bool((batch == first).all())
        images += len(batch)
    return OutputFacts(images, confident, best, bad, zero and images > 0, same and images > 1)


def check_outputs(dense: OutputFacts, pruned: OutputFacts) -> list[Finding]:
    """Whether the network still says something after the cut; both facts are of the same pictures."""
    numbers = {
        "images": pruned.images,
        "candidates above 0.25, dense": dense.confident,
        "candidates above 0.25, pruned": pruned.confident,
        "best score, dense": _score(dense.max_score),
        "best score, pruned": _score(pruned.max_score),
    }
    if pruned.bad_values:
        numbers = {**numbers, "values that are not numbers": pruned.bad_values}
        return [Finding("The pruned network puts out NaN or infinite values", "problem", numbers, NEXT_DEAD)]
    if pruned.all_zero:
        return [Finding("The pruned network puts out only zeros", "problem", numbers, NEXT_DEAD)]
    if pruned.constant and not dense.constant:
        return [Finding("The pruned network puts out the same for every picture", "problem", numbers, NEXT_DEAD)]
    if not dense.confident:
        step = "Check the model, its class names and how the pictures are prepared, before any cut."
        return [Finding("The dense network itself finds nothing above 0.25", "problem", numbers, step)]
    if not pruned.confident:
        return [Finding("The pruned network finds nothing above 0.25 where the dense one does", "problem", numbers, NEXT_DEAD)]
    findings = []
    if (pruned.max_score or 0.0) < COLLAPSE * (dense.max_score or 0.0):
        step = "Fine-tune before judging it; recalibrate the batch norms on training images."
        findings.append(Finding("The pruned network's best score has collapsed", "warning", numbers, step))
    if pruned.confident > FLOOD * dense.confident:
        step = "The class branch of the head is off: recalibrate the batch norms, protect the head's widths, fine-tune."
        findings.append(Finding("The pruned network sees objects nearly everywhere", "warning", numbers, step))
    return findings or [Finding("The pruned network's outputs are alive", "ok", numbers)]


def _score(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


Step = Literal["dense", "cut", "tuned", "int8"]
STEP_NAMES = {"cut": "the cut", "tuned": "fine-tuning", "int8": "INT8"}
STEP_NEXT = {
    "cut": "Ask for less, cut in more and smaller steps by measured sensitivity, and fine-tune longer.",
    "tuned": "Fine-tuning made it worse: lower the learning rate, check its data, keep the best epoch and not the last.",
    "int8": "Keep what follows the head's last convs in float, calibrate on more and typical images, try another recipe.",
}


def check_map(steps: Sequence[tuple[Step, float]], limit: float = LARGE_DROP) -> list[Finding]:
    """Where accuracy went.

    Fine-tuning is meant to win back what the cut lost, so the two are charged together: to the cut, unless fine-tuning ended
    below where it began.

    Args:
        steps: (step, mAP50-95 0..1) in order, dense first, on the same split.
        limit: a larger drop, absolute, is a problem.
    """
    if len(steps) < 2:
        return []
    values = dict(steps)
    dense, last = steps[0][1], steps[-1][1]
    losses = _losses(values, dense)
    numbers: dict[str, float | int | str | None] = {f"mAP50-95 {_after(step)}": f"{value:.3f}" for step, value in steps}
    numbers["drop"] = f"{(dense - last) * 100:.1f} points"
    if dense - last <= limit:
        return [Finding(f"mAP50-95 stays within {limit * 100:.0f} points of the dense network", "ok", numbers)]
    worst = max(losses, key=lambda step: losses[step])
    numbers |= {f"lost by {STEP_NAMES[step]}": f"{loss * 100:.1f} points" for step, loss in losses.items()}
    title = f"mAP50-95 fell by {(dense - last) * 100:.1f} points, most of it by {STEP_NAMES[worst]}"
    return [Finding(title, "problem", numbers, STEP_NEXT[worst])]


def _losses(values: dict[Step, float], dense: float) -> dict[str, float]:
    losses: dict[str, float] = {}
    before = dense
    if "cut" in values:
        after = max(values["cut"], values.get("tuned", values["cut"]))
        losses["cut"], before = dense - after, after
    if "tuned" in values:
        losses["cut" if "cut" not in values else "tuned"] = before - values["tuned"]
        before = values["tuned"]
    if "int8" in values:
        losses["int8"] = before - values["int8"]
    return losses


def _after(step: Step) -> str:
    return "dense" if step == "dense" else f"after {STEP_NAMES[step]}"


def check_reached(name: str, asked: float, reached: float | None, *, alignment: int | None = None) -> list[Finding]:
    """Whether a kept ratio (0..1) asked for was reached within ±0.02."""
    numbers = {
        "asked": f"{asked:.3f}",
        "reached": None if reached is None else f"{reached:.3f}",
        "channels in multiples of": alignment,
    }
    if reached is None:
        return [Finding(f"Whether the {name} was reached is not known", "warning", numbers, "Run the stage that measures it.")]
    if abs(reached - asked) <= RATIO_TOLERANCE:
        return [Finding(f"The {name} asked for was reached", "ok", numbers)]
    if reached > asked:
        step = "Layers that keep their width, the smallest width and the alignment set a floor: lower it, or free more layers."
        return [Finding(f"Less was cut than asked: {name} {reached:.3f} for {asked:.3f}", "warning", numbers, step)]
    step = "Groups are cut together and widths move in steps of the alignment: lower the alignment or use a finer strategy."
    return [Finding(f"More was cut than asked: {name} {reached:.3f} for {asked:.3f}", "warning", numbers, step)]
