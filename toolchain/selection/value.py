"""What narrowing a group costs the detector: group -> width -> predicted loss, falling to 0 at full width, to be summed.

`fisher` sums the saliency of the channels that go: it is defined for every width and adds up by construction. `remaining` counts
each of them by what is left beside it. `measured` is the rise of the detection loss that `toolchain sensitivity` saw with that
group alone narrowed, made monotone; between the measured widths it follows the shape of the Fisher curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolchain.errors import PlanError
from toolchain.pruning.criteria import GroupScores, loss_curve
from toolchain.pruning.groups import Network

Loss = dict[str, dict[int, float]]
LEAST_LEFT = 0.001  # share of a group's saliency below which less makes no difference


def total(loss: Mapping[str, Mapping[int, float]], widths: Mapping[str, int]) -> float:
    """Predicted loss of a plan."""
    return sum(loss[group][width] for group, width in widths.items())


def fisher(network: Network, scores: GroupScores, options: Mapping[str, Sequence[int]]) -> Loss:
    """Saliency lost at every width, from scores of any criterion that adds up."""
    curves = {g.name: loss_curve(scores[g.name]) for g in network.free}
    return _once(network, {group: {w: float(curves[group][w]) for w in widths} for group, widths in options.items()})


def remaining(network: Network, scores: GroupScores, options: Mapping[str, Sequence[int]]) -> Loss:
    """Saliency lost, each channel's counted by the share of its group's that is left then: S · ln(1 / share left).

    Saliency is a second-order estimate for small changes, and says too little of a group that is nearly emptied: its last
    channels carry what the first ones left. LAMP (arXiv 2010.07611) divides by what is left in the same way.
    A Bottleneck that goes costs its saliency once, as in `fisher`: the path around it stays.
    """
    lost = fisher(network, scores, options)
    whole = {g.name: float(loss_curve(scores[g.name])[0]) for g in network.free}

    def counted(group: str, width: int, value: float) -> float:
        if width == 0 or value == 0:
            return value
        return -whole[group] * float(np.log(max(1 - value / whole[group], LEAST_LEFT)))

    return {group: {w: counted(group, w, v) for w, v in curve.items()} for group, curve in lost.items()}


def _once(network: Network, loss: Loss) -> Loss:
    """A Bottleneck that goes is counted once, at its hidden group: what else is empty with it costs nothing more."""
    for removal in network.removals:
        for group in removal.groups[1:]:
            if 0 in loss.get(group, {}):
                loss[group][0] = 0.0
    return loss


def rises(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Rows of a sensitivity measurement as group -> width -> rise of the loss."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["group"], {})[row["kept"]] = row["loss_rise"]
    return found


def measured(rises: Mapping[str, Mapping[int, float]], shape: Loss, options: Mapping[str, Sequence[int]]) -> Loss:
    """Measured rises at every width.

    Args:
        rises: group -> width -> rise of the loss with that group alone narrowed.
        shape: group -> width -> a curve to follow between the measured widths (`fisher`).

    Raises:
        PlanError: a group was not measured.
    """
    if missing := sorted(set(options) - set(rises)):
        raise PlanError("groups without a measured sensitivity", got=missing[:5], fix="run `toolchain sensitivity` on this model")
    return {group: _curve(rises[group], shape[group], widths) for group, widths in options.items()}


def _curve(rises: Mapping[int, float], shape: Mapping[int, float], widths: Sequence[int]) -> dict[int, float]:
    """Monotone in the width: narrower never costs less; 0 at full width; the narrowest measured slope goes on below."""
    full = max(widths)
    known = sorted(w for w in rises if w < full)
    at = [shape[w] if w in shape else float(np.interp(w, sorted(shape), [shape[k] for k in sorted(shape)])) for w in known]
    values = np.maximum.accumulate(np.array([max(rises[w], 0.0) for w in known])[::-1])  # from wide to narrow
    x, y = np.concatenate([[0.0], np.array(at)[::-1]]), np.concatenate([[0.0], values])
    last = y[-1] / x[-1] if x[-1] > 0 else 0.0
    found = {}
    for width in widths:
        s = shape[width]
        found[width] = float(np.interp(s, x, y)) if s <= x[-1] else float(y[-1] + last * (s - x[-1]))
    return found
