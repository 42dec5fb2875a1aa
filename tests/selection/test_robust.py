"""A selection goes on after a stop at any instant, a lost device costs one sample, noise is repeated, nonsense is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.jobs import IMGSZ, make_job
from tests.pruning.cases import random_widths, subject
from tests.selection.test_resize import exported
from toolchain import verbs
from toolchain.config import SelectSection
from toolchain.device import recover, sweep
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import BudgetError, ConnectionLostError, MeasurementError
from toolchain.pruning.plan import PruningPlan
from toolchain.selection.budget import parse_budgets
from toolchain.selection.timed import Timed
from toolchain.verbs import selecting

FEW = SelectSection(precision="fp32", samples=20, rounds=4, criterion="l1", check=0)


class Device:
    """Takes the place of `sweep.measure`: latency is the engine's size. `trouble` is asked before each timing."""

    def __init__(self) -> None:
        self.timed: list[str] = []
        self.trouble: Callable[[int], None] = lambda number: None
        self.unsteady: set[int] = set()

    def measure(
        self, engines: Iterable[Candidate], reference: Path, on: On, earlier_ms: Sequence[float] = ()
    ) -> Iterator[Timing]:
        dense = reference.stat().st_size
        for one in engines:
            size = one.make().stat().st_size
            self.timed.append(one.label)
            number = len(self.timed)
            self.trouble(number)
            noisy = number in self.unsteady
            ratio = size / dense * (1.5 if noisy else 1.0)
            yield Timing(one.label, one.about, "", ratio, 0.2 if noisy else 0.0, not noisy, [size / 1e5], [dense / 1e5], size)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep, "measure", found.measure)
    monkeypatch.setattr("toolchain.selection.front.FACTORS", (0.9,))
    monkeypatch.setattr("toolchain.selection.learnt.RUNTIMES", ())  # no profiles
    make_job(tmp_path)
    return found


def select(root: Path, out: Path, *budgets: str) -> Any:
    out.mkdir(exist_ok=True)
    return verbs.select(
        [root / "dense.pt"], out, parse_budgets(budgets), data=root / "data/data.yaml", sizes=[IMGSZ], on=On(threads=1), align=4,
        section=FEW,
    )  # fmt: skip


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def planned(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Widths of a selection that is stopped where it begins to cut."""
    with monkeypatch.context() as patch:
        patch.setattr(selecting, "prune", stop)
        with pytest.raises(KeyboardInterrupt):
            select(root, out, "latency=0.7x")
    return PruningPlan.load(out / "plan.json").widths


def again(labels: list[str]) -> list[str]:
    return [label for label, times in Counter(labels).items() if times > 1]


def test_stopped_again_and_again_it_ends_with_the_plan_of_an_undisturbed_run(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = planned(tmp_path, tmp_path / "plain", monkeypatch)
    undisturbed = len(device.timed)
    device.timed.clear()
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    at = {3, 22}  # a sample, and the chosen plan of the first round
    device.trouble = lambda number: stop() if number in at else None
    for _ in at:
        with pytest.raises(KeyboardInterrupt):
            select(tmp_path, tmp_path / "s", "latency=0.7x")
    device.trouble = lambda number: None
    assert planned(tmp_path, tmp_path / "s", monkeypatch) == plain
    with monkeypatch.context() as patch:
        patch.setattr(selecting, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            select(tmp_path, tmp_path / "s", "latency=0.7x")
    found = select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert found["rounds"][-1]["widths"] == plain
    assert len(again(device.timed)) == len(at)  # only what was under way is done again
    assert len(device.timed) == undisturbed + len(at)
    cost = {row["stage"]: row for row in found["spent"]}
    assert (cost["timing of plans"]["done"], cost["timing of plans"]["kept"]) == (0, FEW.samples)
    assert (cost["values of widths"]["done"], cost["values of widths"]["kept"]) == (0, 1)
    assert cost["timing of plans"]["device_s"] == 0
    assert cost["timing of plans"]["earlier_wall_s"] > 0


def test_a_device_lost_during_sampling_costs_only_that_sample(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(number: int) -> None:
        if number == 5:
            raise ConnectionLostError("the link was cut", got="silence")

    device.trouble = lost
    monkeypatch.setattr(recover, "_wait", lambda on, error: None)
    monkeypatch.setattr(recover, "parse_host", lambda host: SimpleNamespace(local=False))
    planned(tmp_path, tmp_path / "s", monkeypatch)
    assert again(device.timed) == [device.timed[4]]
    assert len(set(device.timed[:21])) == FEW.samples


def test_a_noisy_timing_is_repeated_and_not_averaged_in(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    plain = planned(tmp_path, tmp_path / "s", monkeypatch)
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    device.timed.clear()
    device.unsteady = {4, 9}  # half as slow again
    assert planned(tmp_path, tmp_path / "s", monkeypatch) == plain
    assert device.timed[20:22] == [f"{device.timed[3]} again 1", f"{device.timed[8]} again 1"]


def test_a_plan_that_is_unsteady_each_time_is_no_measurement(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    device.unsteady = set(range(21, 100))
    with pytest.raises(MeasurementError, match="unsteady each time"):
        select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert [label.partition(" ")[2] for label in device.timed[20:]] == ["", "again 1", "again 2"]
    device.unsteady = set()
    planned(tmp_path, tmp_path / "s", monkeypatch)  # the same command goes on
    assert device.timed[23] == f"{device.timed[20]} again 3"


def test_after_a_noisy_day_the_same_command_times_anew_what_was_unsteady(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.unsteady = set(range(1, 7))
    with pytest.raises(MeasurementError, match="too unsteady"):
        select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert again(device.timed) == []
    assert len(device.timed) == FEW.samples
    device.unsteady = set()
    plain = planned(tmp_path, tmp_path / "s", monkeypatch)
    assert device.timed[20:26] == [f"{label} again 1" for label in device.timed[:6]]
    timed = len(device.timed)
    assert planned(tmp_path, tmp_path / "s", monkeypatch) == plain  # and what is steady now is not timed again
    assert len(device.timed) == timed


@pytest.mark.parametrize(("budgets", "said"), [
    (("latency=0.01x",), r"latency budget cannot be reached[^\n]*\n[^\n]*0\.01[^\n]*\n[^\n]*narrowest network measured 0\."),
    (("latency=0.9x", "size=1kB"), r"size budget cannot be reached[^\n]*\n[^\n]*1000 bytes\n[^\n]*least that can be reached is"),
], ids=["latency", "size"])  # fmt: skip
def test_a_budget_out_of_reach_is_refused_with_the_least_that_can_be(
    budgets: tuple[str, ...], said: str, device: Device, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=said):
        select(tmp_path, tmp_path / "s", *budgets)
    assert not (tmp_path / "s" / "plan.json").exists()


def test_plans_are_timed_in_the_form_the_runtime_reads(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn")
    seen: list[str] = []
    measure = device.measure

    def watched(engines: Iterable[Candidate], reference: Path, on: On, earlier_ms: Sequence[float]) -> Iterator[Timing]:
        seen.append(reference.suffix)
        return measure(engines, reference, on)

    monkeypatch.setattr(sweep, "measure", watched)
    folder = tmp_path / "store"
    folder.mkdir()
    network = subject()[2]
    timed = Timed(network, exported(subject()[0], tmp_path / "dense"), folder, On(runtime="ncnn", threads=1))
    small, whole = timed.times([random_widths(network, 1, align=4), {g.name: g.channels for g in network.free}])
    assert seen == [".ncnn"]
    assert small.ratio < whole.ratio == 1
    assert [path.name for path in folder.rglob("candidate*")] == []
