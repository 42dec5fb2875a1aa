"""Plans as engines on the device: the dense graph resized to a plan, timed against the dense engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from toolchain.device.recover import recover
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing, sweep
from toolchain.export.resize import resize
from toolchain.pruning.groups import Network
from toolchain.selection.shapes import engine_sizes

Widths = Mapping[str, int]
FILE = "timings.jsonl"


@dataclass(frozen=True)
class Timed:
    """Times plans of one network on one device; what was timed before is read from the folder.

    Attributes:
        dense: the unpruned engine, FP32 or INT8: the reference, and what plans are cut out of.
        folder: keeps `timings.jsonl`.
    """

    network: Network
    dense: Path
    folder: Path
    on: On

    def times(self, plans: Sequence[Widths]) -> list[Timing]:
        """One timing a plan, in order.

        Raises:
            DeviceError and its kinds: what was timed before is kept, so the same call goes on.
        """
        model = onnx.load(self.dense)
        scratch = self.folder / "candidate.onnx"

        def candidate(plan: Widths) -> Candidate:
            def make() -> Path:
                onnx.save(resize(model, engine_sizes(self.network, plan)), scratch)
                return scratch

            return Candidate(name_of(plan), make, {"widths": dict(plan)})

        wanted = [candidate(plan) for plan in plans]
        out, identity = self.folder / FILE, self.folder.name
        try:
            return recover(lambda: sweep(wanted, self.dense, out, on=self.on, identity=identity), self.on)
        finally:
            scratch.unlink(missing_ok=True)


def name_of(plan: Widths) -> str:
    """A plan's label: the same for the same widths."""
    return hashlib.sha256(json.dumps(dict(plan), sort_keys=True).encode()).hexdigest()[:16]


def dense_ms(timings: Sequence[Timing]) -> float:
    """Median latency of the dense engine over all turns, ms."""
    from statistics import median

    return median(ms for timing in timings for ms in timing.reference_ms)
