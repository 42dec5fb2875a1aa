"""Select on a real, tiny network and this machine; how well it meets a budget is measured by benchmarks, not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import IMGSZ, make_job
from toolchain import verbs
from toolchain.config import SelectSection, load_config
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import ConfigError, UsageError
from toolchain.measurement.energy_result import EnergyResult
from toolchain.pipeline import cut_and_tune, start
from toolchain.pruning.plan import PruningPlan
from toolchain.selection.budget import parse_budgets
from toolchain.selection.energy import Meter
from toolchain.selection.goals import TOLERANCE
from toolchain.yolo.checkpoint import load_model

FEW = SelectSection(precision="fp32", samples=20, rounds=4, criterion="l1", check=4)

STAGES = ["dense engines", "values of widths", "timing of plans", "profiles of some plans", "fit of the latency model",
          "choice of the start", "rounds", "solver", "cut", "check of the sum", "reasons and other budgets"]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny job on a device whose latency is the engine's size: known, steady and quick."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("toolchain.selection.timed.sweep", by_size)
    monkeypatch.setattr("toolchain.selection.front.FACTORS", (0.9, 1.1))
    monkeypatch.setattr("toolchain.selection.front.EFFORT", 1.0)
    monkeypatch.setattr("toolchain.selection.learnt.FOR_PRIOR", 3)
    return make_job(tmp_path)


def by_size(engines: Sequence[Candidate], reference: Path, out: Path, *, on: On, identity: str) -> list[Timing]:
    """Stands in for `sweep`."""
    dense, found = reference.stat().st_size, []
    for one in engines:
        size = one.make().stat().st_size
        found.append(Timing(one.label, one.about, "", size / dense, 0.0, True, [size / 1e5], [dense / 1e5], size))
    return found


def select(job: Path, out: Path, *budgets: str) -> dict[str, object]:
    out.mkdir(exist_ok=True)
    root = job.parent
    return verbs.select(
        [root / "dense.pt"], out, parse_budgets(budgets), data=root / "data/data.yaml", sizes=[IMGSZ], on=On(threads=1), align=4,
        section=FEW,
    )  # fmt: skip


def test_a_plan_a_network_and_the_reasons(job: Path, tmp_path: Path) -> None:
    result = select(job, tmp_path / "s", "latency=0.8x", "size=0.6x")
    plan = PruningPlan.load(tmp_path / "s" / "plan.json")
    assert plan.strategy == "latency"
    assert plan.widths == result["rounds"][-1]["widths"]  # type: ignore[index]
    assert all(width % 4 == 0 for width in plan.widths.values())
    dense = load_model(job.parent / "dense.pt").module
    cut = load_model(tmp_path / "s" / "pruned.pt").module
    page = (tmp_path / "s" / "select.html").read_text()
    assert "toolchain select" in page
    assert "--budget latency=0.8x --budget size=0.6x" in page
    assert all(f"<code>{group.removesuffix('.conv')}</code>" in page for group in plan.widths)
    assert "What the selection cost" in page
    cost: dict[str, Any] = {row["stage"]: row for row in result["spent"]}  # type: ignore[attr-defined]
    assert list(cost) == STAGES
    assert cost["timing of plans"]["done"] == FEW.samples
    assert cost["timing of plans"]["kept"] == cost["cut"]["earlier_wall_s"] == 0
    assert all(0 < row["device_s"] <= row["wall_s"] for row in (cost["timing of plans"], cost["rounds"]))
    assert cost["solver"]["device_s"] == cost["cut"]["device_s"] == 0
    count = [sum(p.numel() for p in net.parameters()) for net in (dense, cut)]
    assert count[1] < 0.75 * count[0]  # the size budget was heard
    assert abs(result["measured"] / result["share"] - 1) <= TOLERANCE or result["measured"] < 0.6 * (1 + TOLERANCE)  # type: ignore[operator]


def test_a_budget_in_the_pipeline_takes_the_place_of_the_ratio(job: Path) -> None:
    flags = {"budget": ["latency=0.6x"], "select.precision": "fp32", "select.samples": 20, "select.criterion": "l1",
             "prune.align": 4, "prune.steps": 2, "prune.step_epochs": 1, "train.epochs": 0}  # fmt: skip
    work = start(load_config(job, flags))
    model, plan = cut_and_tune(work)
    assert plan.strategy == "latency"
    first, second = (stage.result for stage in work.done if stage.name.startswith("cut"))
    assert first["share"] == pytest.approx(0.6**0.5)
    assert second["share"] == pytest.approx(0.6 / first["measured"])
    assert load_model(model).module is not None


def test_a_budget_beside_a_ratio_is_refused(job: Path) -> None:
    with pytest.raises(ConfigError, match=r"prune\.ratio = 0\.3"):
        start(load_config(job, {"budget": ["latency=0.6x"], "prune.ratio": 0.3}))
    with pytest.raises(UsageError, match="without a unit"):
        start(load_config(job, {"budget": ["latency=6"]}))


def test_energy_needs_a_sensor(job: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"power sensor[^\n]*\n[^\n]*no_sensor: no target is named"):
        select(job, tmp_path / "s", "energy=3mJ")


def test_an_energy_budget_alone(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose energy is the square root of its engine's size, 8 mJ dense."""

    def windows(meter: Meter, engines: dict[str, Path], out: Path) -> dict[str, EnergyResult]:
        dense = engines["dense"].stat().st_size
        shares = {label: (path.stat().st_size / dense) ** 0.5 for label, path in engines.items()}
        return {
            label: EnergyResult("measured", scope="board", energy_total_mj=8 * share, uncertainty_total_mj=0.01)
            for label, share in shares.items()
        }

    monkeypatch.setattr(Meter, "_windows", windows)
    monkeypatch.setattr("toolchain.verbs.select_goals.check_sensor", lambda on, target: None)
    monkeypatch.setattr(f"{__name__}.FEW", FEW.model_copy(update={"rounds": 4}))  # as many as the product allows
    result: Any = select(job, tmp_path / "s", "energy=6.4mJ")
    last = result["rounds"][-1]
    assert last["others"]["energy"]["measured"] == pytest.approx(0.8, rel=TOLERANCE)
    assert last["measured"] == pytest.approx(0.64, rel=0.05)
    assert not result["limited"]
    assert (result["energy"]["share"], result["energy"]["dense_mj"]) == pytest.approx((0.8, 8.0))
    page = (tmp_path / "s" / "select.html").read_text()
    assert "of the dense energy" in page
    assert "--budget energy=6.4mJ" in page


def test_a_size_budget_alone(job: Path, tmp_path: Path) -> None:
    result: Any = select(job, tmp_path / "s", "size=0.7x")
    assert 0.6 < result["measured"] <= 0.7 * (1 + TOLERANCE)  # latency is the size here
    assert not result["limited"]
    assert "not limited" in (tmp_path / "s" / "select.html").read_text()


def test_several_starts_need_a_latency_to_be_compared_at(job: Path, tmp_path: Path) -> None:
    model, data = job.parent / "dense.pt", job.parent / "data/data.yaml"
    with pytest.raises(UsageError, match="compared at a latency budget"):
        verbs.select([model], tmp_path, parse_budgets(["size=0.7x"]), data=data, sizes=[IMGSZ, 64], on=On(), align=4)


def test_of_several_starts_the_best_of_a_trial_is_cut(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolchain.selection.trial.LEAST", 1)
    root, out = job.parent, tmp_path / "s"
    out.mkdir()
    section = FEW.model_copy(update={"trial_epochs": 1, "check": 0})
    result = verbs.select(
        [root / "dense.pt"], out, parse_budgets(["latency=0.7x"]), data=root / "data/data.yaml", sizes=[IMGSZ, IMGSZ // 2],
        on=On(threads=1), align=4, section=section,
    )  # fmt: skip
    rows = result["candidates"]
    assert [row["imgsz"] for row in rows] == [IMGSZ, IMGSZ // 2]
    chosen = next(row for row in rows if row["chosen"])
    assert chosen["trial_map"] == max(row["trial_map"] for row in rows)
    assert PruningPlan.load(out / "plan.json").imgsz == chosen["imgsz"] == result["imgsz"]
    assert result["measured"] <= 0.7 * (1 + TOLERANCE)


@pytest.mark.parametrize("strategy", ["uniform", "global", "lamp", "flops"])
def test_every_strategy_meets_a_budget_by_its_ratio(strategy: str, job: Path, tmp_path: Path) -> None:
    root, out = job.parent, tmp_path / "s"
    out.mkdir()
    section = FEW.model_copy(update={"strategy": strategy, "check": 0})
    result = verbs.select(
        [root / "dense.pt"], out, parse_budgets(["latency=0.7x"]), data=root / "data/data.yaml", sizes=[IMGSZ], on=On(threads=1),
        align=4, section=section,
    )  # fmt: skip
    plan = PruningPlan.load(out / "plan.json")
    assert plan.strategy == strategy
    assert result["rounds"][-1]["gap"] is None
    assert result["measured"] <= 0.7 * (1 + TOLERANCE)
