"""Plans as engines on the device: the dense graph resized to a plan, timed against the dense engine, or layer by layer."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from toolchain import progress
from toolchain.device.forms import for_runtime
from toolchain.device.profile import profile
from toolchain.device.recover import recover
from toolchain.device.settings import On
from toolchain.device.sharing import sweep_shared
from toolchain.device.sweep import Candidate, Timing, sweep
from toolchain.export.resize import resize
from toolchain.pruning.groups import Network, Widths
from toolchain.report.layer_times import place
from toolchain.selection import spent
from toolchain.selection.shapes import engine_convs, engine_sizes
from toolchain.stage import append_line, read_lines

FILE, PROFILES = "timings.jsonl", "profiles.jsonl"
AGAIN = " again "  # between a plan's name and the number of a further timing
REPEATS = 2  # further timings of a plan whose first was unsteady
NOISY = 0.2  # share of unsteady timings from which the device is to blame


@dataclass(frozen=True)
class Timed:
    """Times plans of one network on one device; what was timed before is read from the folder.

    Attributes:
        dense: the unpruned graph, float or INT8: what plans are cut out of.
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

        A plan whose timing was unsteady, now or in an earlier call, is timed anew; the steady timing takes the other's place,
        they are not averaged. Where more than a fifth of the plans come out unsteady it is the device, and none is repeated.

        Raises:
            DeviceError and its kinds: what was timed before is kept, so the same call goes on.
        """
        names, known = [name_of(plan) for plan in plans], self._known()
        now = [i for i, name in enumerate(names) if name not in known]
        found = self._timed(plans, [known.get(name, [name])[0] for name in names])
        for _ in range(REPEATS):
            noisy = [i for i, timing in enumerate(found) if not timing.steady]
            if not noisy or sum(i in now for i in noisy) > max(1, NOISY * len(plans)):
                break
            progress.note(f"  unsteady, timed anew: {len(noisy)} of {len(plans)}")
            known, now = self._known(), noisy
            labels = [f"{names[i]}{AGAIN}{len(known[names[i]])}" for i in noisy]
            for i, timing in zip(noisy, self._timed([plans[i] for i in noisy], labels), strict=True):
                found[i] = timing if timing.steady else found[i]
        return found

    def _known(self) -> dict[str, list[str]]:
        """Name of a plan -> labels of its timings, a steady one first."""
        found: dict[str, list[str]] = {}
        for line in sorted(read_lines(self.folder / FILE), key=lambda line: not line["steady"]):
            found.setdefault(line["label"].split(AGAIN)[0], []).append(line["label"])
        return found

    def _timed(self, plans: Sequence[Widths], labels: Sequence[str]) -> list[Timing]:
        model = onnx.load(self.dense)

        def candidate(plan: Widths, label: str) -> Candidate:
            def make() -> Path:
                scratch = self.folder / f"candidate-{threading.get_ident()}.onnx"  # each device has a thread
                with spent.device(at_work=False):
                    return self.engine(cut(model, self.network, plan, scratch))

            return Candidate(label, make, {"widths": dict(plan)})

        try:
            return self.engines([candidate(plan, label) for plan, label in zip(plans, labels, strict=True)])
        finally:
            for scratch in self.folder.rglob("candidate-*"):
                scratch.unlink()

    def engine(self, graph: Path) -> Path:
        """What the device's runtime reads of a graph."""
        return for_runtime(graph, self.on, self.folder)

    @cached_property
    def reference(self) -> Path:
        """The dense engine as the runtime reads it."""
        return self.engine(self.dense)

    def engines(self, engines: Sequence[Candidate]) -> list[Timing]:
        """Engines of any kind beside the dense one; kept in the same file.

        Raises: as `times`.
        """
        out, identity = self.folder / FILE, self.folder.name
        known = {line["label"] for line in read_lines(out)} & {one.label for one in engines}
        hosts = [self.on.host, *self.helpers]
        spent.count(len(engines) - len(known), len(known))
        if len(known) == len(engines):  # asked for what is known: the reference need not even be made
            return sweep(engines, self.dense, out, on=self.on, identity=identity)
        dense = self.reference
        with spent.device():
            if self.helpers:
                return sweep_shared(engines, dense, out, on=self.on, hosts=hosts, identity=identity)
            return recover(lambda: sweep(engines, dense, out, on=self.on, identity=identity), self.on)

    def profiles(self, plans: Sequence[Widths]) -> list[dict[str, float]]:
        """Layer times of the plans' engines, ms: the fastest run of each node, summed by convolution (module path).

        What belongs to no convolution has a key of its own, `rest: …`. What was profiled before is read from the folder.
        """
        known = {line["label"]: line["times"] for line in read_lines(self.folder / PROFILES)}
        names = [name_of(plan) for plan in plans]
        missing = {name: plan for name, plan in zip(names, plans, strict=True) if name not in known}
        if missing:
            model, layers = onnx.load(self.dense), {name.removesuffix(".conv"): name for name in engine_convs(self.network)}
            with progress.task("Profiling", total=len(missing), unit="engines") as task:
                for name, plan in missing.items():
                    known[name] = self._profile(model, plan, layers)
                    append_line(self.folder / PROFILES, {"label": name, "times": known[name]})
                    task.advance()
        return [known[name] for name in names]

    def _profile(self, model: onnx.ModelProto, plan: Widths, layers: Mapping[str, str]) -> dict[str, float]:
        path, times = cut(model, self.network, plan, self.folder / "profiled.onnx"), dict[str, float]()
        with spent.device():
            nodes = profile(path, self.on)
        for node in nodes:
            layer = place(node, layers, None).layer
            name = layers.get(layer, f"rest: {layer}")
            times[name] = times.get(name, 0.0) + node.min_ms
        path.unlink()
        return times


def cut(dense: onnx.ModelProto, network: Network, plan: Widths, path: Path) -> Path:
    """Write a plan's engine, cut out of the dense one."""
    onnx.save(resize(dense, engine_sizes(network, plan)), path)
    return path


def name_of(plan: Mapping[str, int]) -> str:
    """A plan's label: the same for the same widths."""
    return hashlib.sha256(json.dumps(dict(plan), sort_keys=True).encode()).hexdigest()[:16]


def dense_ms(timings: Sequence[Timing]) -> float:
    """Median latency of the dense engine over all turns, ms."""
    from statistics import median

    return median(ms for timing in timings for ms in timing.reference_ms)
