"""Select on a real, tiny network and this machine; how well it meets a budget is measured by benchmarks, not here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.jobs import IMGSZ, make_job
from toolchain import verbs
from toolchain.config import SelectSection, load_config
from toolchain.device.settings import On
from toolchain.device.sweep import Candidate, Timing
from toolchain.errors import ConfigError, UsageError
from toolchain.pipeline import cut_and_tune, start
from toolchain.pruning.plan import PruningPlan
from toolchain.selection.budget import parse_budgets
from toolchain.selection.search import TOLERANCE
from toolchain.yolo.checkpoint import load_model

FEW = SelectSection(precision="fp32", samples=20, rounds=2, criterion="l1")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny job on a device whose latency is the engine's size: known, steady and quick."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("toolchain.selection.timed.sweep", by_size)
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
        root / "dense.pt", out, parse_budgets(budgets), data=root / "data/data.yaml", imgsz=IMGSZ, on=On(threads=1), align=4,
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
    count = [sum(p.numel() for p in net.parameters()) for net in (dense, cut)]
    assert count[1] < 0.75 * count[0]  # the size budget was heard
    assert abs(result["measured"] / result["share"] - 1) <= TOLERANCE or result["measured"] < 0.6  # type: ignore[operator]


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
    with pytest.raises(UsageError, match="energy"):
        select(job, tmp_path / "s", "energy=3mJ")
