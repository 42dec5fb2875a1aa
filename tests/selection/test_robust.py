"""A selection goes on after a stop at any instant, a lost device costs one sample, noise is repeated, nonsense is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import IMGSZ, make_job
from toolchain import verbs
from toolchain.config import SelectSection
from toolchain.device import recover, sweep
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import BudgetError, ConnectionLostError, MeasurementError
from toolchain.pruning.plan import PruningPlan
from toolchain.selection.budget import parse_budgets
from toolchain.verbs import selecting

FEW = SelectSection(precision="fp32", samples=20, rounds=2, criterion="l1", check=3)


class Device:
    """Takes the place of `sweep.measure`: latency is the engine's size. `trouble` is asked before each timing."""

    def __init__(self) -> None:
        self.timed: list[str] = []
        self.trouble: Callable[[int], None] = lambda number: None
        self.unsteady: set[int] = set()

    def measure(self, engines: Iterable[Candidate], reference: Path, on: On) -> Iterator[Timing]:
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


def test_stopped_again_and_again_it_ends_with_the_plan_of_an_undisturbed_run(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = select(tmp_path, tmp_path / "plain", "latency=0.7x")
    undisturbed = device.timed.copy()
    device.timed.clear()
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "other"))
    at = {3, 12, 22}  # the third sample, a later one, and the chosen plan of the first round
    device.trouble = lambda number: stop() if number in at else None
    for _ in at:
        with pytest.raises(KeyboardInterrupt):
            select(tmp_path, tmp_path / "s", "latency=0.7x")
    device.trouble = lambda number: None
    for where in ("prune", "_agreement", "reasons", "circumstances"):
        with monkeypatch.context() as patch:
            patch.setattr(selecting, where, stop)
            with pytest.raises(KeyboardInterrupt):
                select(tmp_path, tmp_path / "s", "latency=0.7x")
    found = select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert PruningPlan.load(tmp_path / "s" / "plan.json").widths == PruningPlan.load(tmp_path / "plain" / "plan.json").widths
    assert found["rounds"][-1]["widths"] == plain["rounds"][-1]["widths"]
    assert found["front"] == plain["front"]
    twice = [label for label, times in Counter(device.timed).items() if times > 1]
    assert len(device.timed) == len(undisturbed) + len(twice)
    assert len(twice) == len(at)  # only what was under way is done again
    cost = {row["stage"]: row for row in found["spent"]}
    assert (cost["timing of plans"]["done"], cost["timing of plans"]["kept"]) == (0, FEW.samples)
    assert cost["timing of plans"]["earlier_wall_s"] > 0


def test_a_device_lost_during_sampling_costs_only_that_sample(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(number: int) -> None:
        if number == 5:
            raise ConnectionLostError("the link was cut", got="silence")

    device.trouble = lost
    monkeypatch.setattr(recover, "_wait", lambda on, error: None)
    monkeypatch.setattr(recover, "parse_host", lambda host: type("Far", (), {"local": False}))
    result = select(tmp_path, tmp_path / "s", "latency=0.7x")
    again = [label for label, times in Counter(device.timed).items() if times > 1]
    assert again == [device.timed[4]]
    assert result["timings"] == FEW.samples + len(result["rounds"])


def test_a_noisy_timing_is_repeated_and_not_averaged_in(device: Device, tmp_path: Path) -> None:
    plain = select(tmp_path, tmp_path / "plain", "latency=0.7x")
    (tmp_path / "cache").rename(tmp_path / "quiet")
    device.timed.clear()
    device.unsteady = {4, 9}
    noisy = select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert device.timed[20:22] == [f"{device.timed[3]} again 1", f"{device.timed[8]} again 1"]
    assert noisy["latency_model"] == plain["latency_model"]  # the noisy ratios, half as large again, are nowhere
    assert noisy["rounds"][-1]["widths"] == plain["rounds"][-1]["widths"]


def test_a_plan_that_is_unsteady_each_time_is_no_measurement(device: Device, tmp_path: Path) -> None:
    device.unsteady = set(range(21, 100))
    with pytest.raises(MeasurementError, match="unsteady each time"):
        select(tmp_path, tmp_path / "s", "latency=0.7x")
    assert [label.partition(" ")[2] for label in device.timed[20:]] == ["", "again 1", "again 2"]
    device.unsteady = set()
    result = select(tmp_path, tmp_path / "s", "latency=0.7x")  # the same command goes on
    assert device.timed[23].endswith("again 3")
    assert result["rounds"][0]["error"] == 0


@pytest.mark.parametrize(("budgets", "said"), [
    (("latency=0.01x",), r"latency budget cannot be reached[^\n]*\n[^\n]*0\.01[^\n]*\n[^\n]*narrowest network measured 0\."),
    (("latency=0.9x", "size=1kB"), r"size budget cannot be reached[^\n]*\n[^\n]*1000 bytes\n[^\n]*least that can be reached is"),
])  # fmt: skip
def test_a_budget_out_of_reach_is_refused_with_the_least_that_can_be(
    budgets: tuple[str, ...], said: str, device: Device, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=said):
        select(tmp_path, tmp_path / "s", *budgets)
    assert not (tmp_path / "s" / "plan.json").exists()
