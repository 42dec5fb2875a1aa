"""The accuracy gate: an INT8 model that lost too much is not shipped, and the error says where it went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toolchain.errors import AccuracyGateError
from toolchain.quantization.costs import LayerCost

MAX_DROP = 0.01  # mAP50-95
SHOWN = 5


@dataclass(frozen=True)
class Attempt:
    """An INT8 model that was judged.

    Attributes:
        recipe: name.
        left_float: layers left in float beyond what the runtime's rules leave there.
        map50_95: of its own outputs, 0..1.
        on: the pictures it was judged on.
        qat_epochs: of training with the rounding in place, 0: calibrated only.
    """

    recipe: str
    left_float: int
    map50_95: float
    on: str
    qat_epochs: int = 0

    def __str__(self) -> str:
        mixed = f", layers in float: {self.left_float}" if self.left_float else ""
        mixed += f", QAT of {self.qat_epochs} epochs" if self.qat_epochs else ""
        return f"{self.recipe}{mixed}: {self.map50_95:.4f} on {self.on}"


def check_gate(
    float_map: float,
    int8_map: float,
    max_drop: float = MAX_DROP,
    *,
    costs: Sequence[LayerCost] = (),
    tried: Sequence[Attempt] = (),
    images: int | None = None,
) -> dict[str, float]:
    """Compare mAP50-95 of the float model and of the INT8 model on the same pictures.

    Args:
        float_map: 0..1, same pictures, same letterbox, same runtime if possible.
        int8_map: 0..1.
        max_drop: largest loss allowed, absolute mAP.
        costs: of `layer_costs`, noisiest first; the worst are named.
        tried: everything that was judged, so that the advice does not repeat it.
        images: calibration pictures used, if known.

    Returns:
        {"float_map", "int8_map", "drop", "max_drop"}; a negative drop is a gain.

    Raises:
        AccuracyGateError: the drop is larger than `max_drop`, or a value is not a mAP.
    """
    for name, value in (("float", float_map), ("INT8", int8_map)):
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise AccuracyGateError(f"the {name} mAP is not a number from 0 to 1", got=value, fix="evaluate the model again")
    drop = float_map - int8_map
    if drop <= max_drop:
        return {"float_map": float_map, "int8_map": int8_map, "drop": drop, "max_drop": max_drop}
    worst = ", ".join(f"{cost.name} ({cost.sqnr_db:.1f} dB)" for cost in costs[:SHOWN])
    got = f"mAP50-95 {float_map:.4f} in float, {int8_map:.4f} in INT8: a drop of {drop:.4f}, allowed {max_drop:.4f}"
    got += f"\n  noisiest layers: {worst}" if worst else ""
    got += f"\n  tried: {'; '.join(map(str, tried))}" if tried else ""
    raise AccuracyGateError("INT8 lost more accuracy than allowed", got=got, fix=_advice(costs, tried, images))


def _advice(costs: Sequence[LayerCost], tried: Sequence[Attempt], images: int | None) -> str:
    from toolchain.quantization.recipe import list_recipes

    steps = []
    if not any(attempt.left_float for attempt in tried):
        steps.append("leave layers in float as far as needed: --mixed")
    if costs:
        steps.append(f"leave the noisiest layers in float: keep_float = [{', '.join(repr(cost.name) for cost in costs[:2])}]")
    if untried := [name for name in list_recipes() if name not in {attempt.recipe for attempt in tried}]:
        steps.append(f"another recipe: {', '.join(untried)}")
    if images is not None and images < 100:
        steps.append(f"more calibration pictures than {images}")
    if not any(attempt.qat_epochs for attempt in tried):
        steps.append("train with the rounding in place: --qat-epochs 3")
    steps.append("ship the float engine, or allow more with --max-drop")
    return "; ".join(steps)
