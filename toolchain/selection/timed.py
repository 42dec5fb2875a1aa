"""Plans as engines on the device: the dense graph resized to a plan, timed against the dense engine, or layer by layer."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from toolchain import progress
from toolchain.device.profile import profile
from toolchain.device.recover import recover
from toolchain.device.settings import On
from toolchain.device.sharing import sweep_shared
from toolchain.device.sweep import Candidate, Timing, sweep
from toolchain.export.resize import resize
from toolchain.pruning.groups import Network
from toolchain.report.layer_times import place
from toolchain.selection import spent
from toolchain.selection.shapes import engine_convs, engine_sizes
from toolchain.stage import read_lines

Widths = Mapping[str, int]
FILE = "timings.jsonl"
REPEATS = 2  # further timings of a plan whose first was unsteady
NOISY = 0.2  # share of unsteady timings from which the device is to blame


@dataclass(frozen=True)
class Timed:
    """Times plans of one network on one device; what was timed before is read from the folder.

    Attributes:
        dense: the unpruned engine, FP32 or INT8: the reference, and what plans are cut out of.
        folder: keeps `timings.jsonl`.
        helpers: more hosts of the same model as `on.host`, which share the timing of plans.
    """

    network: Network
    dense: Path
    folder: Path
    on: On
    helpers: Sequence[str] = ()

    def times(self, plans: Sequence[Widths]) -> list[Timing]:
        """One timing a plan, in order.

        A plan whose timing was unsteady is timed anew; the steady timing takes the other's place, they are not averaged. Where
        more than a fifth are unsteady it is the device, and none is repeated.

        Raises:
            DeviceError and its kinds: what was timed before is kept, so the same call goes on.
        """
        found = self._timed(plans, [name_of(plan) for plan in plans])
        for _ in range(REPEATS):
            noisy = [i for i, timing in enumerate(found) if not timing.steady]
            if not noisy or len(noisy) > max(1, NOISY * len(plans)):
                break
            progress.note(f"  unsteady, timed anew: {len(noisy)} of {len(plans)}")
            known = [line["label"] for line in read_lines(self.folder / FILE)]
            names = [name_of(plans[i]) for i in noisy]
            labels = [f"{name} again {sum(label.startswith(name) for label in known)}" for name in names]
            for i, timing in zip(noisy, self._timed([plans[i] for i in noisy], labels), strict=True):
                found[i] = timing if timing.steady else found[i]
        return found

    def _timed(self, plans: Sequence[Widths], labels: Sequence[str]) -> list[Timing]:
        model = onnx.load(self.dense)

        def candidate(plan: Widths, label: str) -> Candidate:
            def make() -> Path:
                scratch = self.folder / f"candidate-{threading.get_ident()}.onnx"  # each device has a thread
                with spent.device(at_work=False):
                    return cut(model, self.network, plan, scratch)

            return Candidate(label, make, {"widths": dict(plan)})

        try:
            return self.engines([candidate(plan, label) for plan, label in zip(plans, labels, strict=True)])
        finally:
            for scratch in self.folder.glob("candidate-*.onnx"):
                scratch.unlink()

    def engines(self, engines: Sequence[Candidate]) -> list[Timing]:
        """Engines of any kind beside the dense one; kept in the same file.

        Raises: as `times`.
        """
        out, identity = self.folder / FILE, self.folder.name
        known = {line["label"] for line in read_lines(out)} & {one.label for one in engines}
        hosts = [self.on.host, *self.helpers]
        spent.count(len(engines) - len(known), len(known))
        with spent.device(at_work=len(known) < len(engines)):
            if self.helpers:
                return sweep_shared(engines, self.dense, out, on=self.on, hosts=hosts, identity=identity)
            return recover(lambda: sweep(engines, self.dense, out, on=self.on, identity=identity), self.on)

    def profiles(self, plans: Sequence[Widths]) -> list[dict[str, float]]:
        """Layer times of the plans' engines, ms: the fastest run of each node, summed by convolution (module path).

        What belongs to no convolution has a key of its own, `rest: …`.
        """
        layers = {name.removesuffix(".conv"): name for name in engine_convs(self.network)}
        model, path, found = onnx.load(self.dense), self.folder / "profiled.onnx", []
        with progress.task("Profiling", total=len(plans), unit="engines") as task:
            for plan in plans:
                cut(model, self.network, plan, path)
                times: dict[str, float] = {}
                with spent.device():
                    nodes = profile(path, self.on)
                for node in nodes:
                    layer = place(node, layers, None).layer
                    name = layers.get(layer, f"rest: {layer}")
                    times[name] = times.get(name, 0.0) + node.min_ms
                found.append(times)
                task.advance()
        path.unlink()
        return found


def cut(dense: onnx.ModelProto, network: Network, plan: Widths, path: Path) -> Path:
    """Write a plan's engine, cut out of the dense one."""
    onnx.save(resize(dense, engine_sizes(network, plan)), path)
    return path


def name_of(plan: Widths) -> str:
    """A plan's label: the same for the same widths."""
    return hashlib.sha256(json.dumps(dict(plan), sort_keys=True).encode()).hexdigest()[:16]


def dense_ms(timings: Sequence[Timing]) -> float:
    """Median latency of the dense engine over all turns, ms."""
    from statistics import median

    return median(ms for timing in timings for ms in timing.reference_ms)
