"""Sensitivity is what really happens when a group is narrowed; a stopped measurement goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import NAMES, live_model, tiny_dataset
from tests.pruning.cases import IMGSZ, plan_of
from toolchain.errors import DataError, UnknownNameError
from toolchain.imaging import network_input, read_image
from toolchain.pruning import sensitivity as room
from toolchain.pruning.apply import apply_plan
from toolchain.pruning.criteria import Subject, score
from toolchain.pruning.prune import analyse
from toolchain.pruning.sensitivity import FILE, SUMMARY, Row, guard, sensitivity
from toolchain.yolo.blocks import SplitC2f
from toolchain.yolo.checkpoint import load_model, save_checkpoint
from toolchain.yolo.dataset import load_dataset
from toolchain.yolo.evaluate import evaluate_module
from toolchain.yolo.loss import labelled_batches, raw_loss


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, and pictures labelled with what the model sees best in them, so that it has a mAP to lose."""
    root = tmp_path_factory.mktemp("sensitivity")
    network = live_model()
    for level in network.model[-1].cv2:
        level[2].bias.data.view(4, 16)[:, 1] += 6  # box sides one stride from the centre: inside the picture
    save_checkpoint(root / "dense.pt", network, names=NAMES, train_args={"imgsz": IMGSZ}, extra={})
    data = tiny_dataset(root / "data", {"train": 4, "val": 2}, size=(IMGSZ, IMGSZ))
    for number in range(4):
        picture = read_image(root / "data" / "images" / "train" / f"{number}.png")
        array, _ = network_input(picture, IMGSZ)
        with torch.no_grad():
            found = network(torch.from_numpy(array)[None].float() / 255)[0][0].numpy()
        x, y, w, h = found[:4] / IMGSZ
        inside = (x > w / 2) & (x + w / 2 < 1) & (y > h / 2) & (y + h / 2 < 1)
        best = int(np.where(inside, found[4:].max(axis=0), 0).argmax())
        row = f"{found[4:, best].argmax()} {x[best]} {y[best]} {w[best]} {h[best]}\n"
        (root / "data" / "labels" / "train" / f"{number}.txt").write_text(row)
    return {"model": root / "dense.pt", "data": data, "imgsz": IMGSZ, "criterion": "l1", "ratios": (0.5,), "images": 3}


@pytest.fixture(scope="module")
def measured(job: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("measured")
    return out, sensitivity(out=out, **job)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per network measured from now on."""
    calls: list[int] = []
    real = room.measure
    monkeypatch.setattr(room, "measure", lambda *args: calls.append(1) or real(*args))
    return calls


def test_every_free_group_is_measured_at_aligned_widths(job: dict[str, Any], measured: tuple[Path, dict[str, Any]]) -> None:
    out, result = measured
    _, network = analyse(load_model(job["model"]), IMGSZ)
    rows = result["rows"]
    assert [r["group"] for r in rows] == [g.name for g in network.free if g.channels > 8]
    assert all(r["kept"] % 8 == 0 and r["kept"] < r["channels"] for r in rows)
    assert all(r["kept_ratio"] == r["kept"] / r["channels"] for r in rows)
    assert result["images"] == 3
    assert json.loads((out / SUMMARY).read_text()) == result
    assert len((out / FILE).read_text().splitlines()) == len(rows)


@pytest.mark.parametrize("name", ["model.3", "model.9.cv1", "model.10.cv3.0.0"])
def test_a_drop_equals_a_direct_measurement(
    name: str, job: dict[str, Any], measured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    row = next(r for r in measured[1]["rows"] if r["group"] == name)
    loaded, dataset = load_model(job["model"]), load_dataset(job["data"])
    chosen = room.choose_images(dataset, "train", 3, 0)
    dataset = replace(dataset, splits={"train": [dataset.images("train")[i] for i in chosen]}, sha256="direct")
    prunable, network = analyse(loaded, IMGSZ)
    scores = score(network, Subject(prunable), "l1")
    widths = {g.name: g.channels for g in network.free} | {name: row["kept"]}
    images = torch.rand(1, 3, IMGSZ, IMGSZ)
    cut = apply_plan(loaded.module, prunable, network, plan_of(network, widths, scores), images).network
    losses, maps = [], []
    for module in (loaded.module, cut):
        maps.append(evaluate_module(module, dataset, "train", IMGSZ, tmp_path).map50_95)
        with torch.no_grad():
            (together,) = labelled_batches(dataset, "train", range(3), IMGSZ, 3)
            losses.append(float(raw_loss(module, module(together["img"])[1], together)))
    assert row["map_drop"] == pytest.approx(maps[0] - maps[1], abs=1e-6)
    assert row["loss_rise"] == pytest.approx(losses[1] - losses[0], abs=1e-4)


def test_the_model_had_something_to_lose(measured: tuple[Path, dict[str, Any]]) -> None:
    rows = measured[1]["rows"]
    assert max(r["map_drop"] for r in rows) > 0.05
    assert len({r["loss_rise"] for r in rows}) == len(rows)


def test_a_finished_measurement_is_not_repeated(
    job: dict[str, Any], measured: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch)
    before = (measured[0] / FILE).read_text()
    assert sensitivity(out=measured[0], **job) == measured[1]
    assert calls == []
    assert (measured[0] / FILE).read_text() == before


@pytest.mark.parametrize("tail", ["", '{"job": {"mod', "12\n", "[]\n", "null", '{"job": 1}\n'])
def test_a_stopped_measurement_goes_on_after_its_last_whole_line(
    job: dict[str, Any], measured: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tail: str
) -> None:
    lines = (measured[0] / FILE).read_text().splitlines(keepends=True)
    (tmp_path / FILE).write_text("".join(lines[:-2]) + tail)
    calls = counting(monkeypatch)
    assert sensitivity(out=tmp_path, **job) == measured[1]
    assert len(calls) == 3  # two widths and the uncut network they are compared with
    calls.clear()
    assert sensitivity(out=tmp_path, **job) == measured[1]  # the line after the torn one was not lost to it
    assert calls == []


def test_lines_of_another_job_are_not_taken_over(
    job: dict[str, Any], measured: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_bytes((measured[0] / FILE).read_bytes())
    calls = counting(monkeypatch)
    result = sensitivity(out=tmp_path, **{**job, "criterion": "l2"})
    assert len(calls) == 1 + len(result["rows"])


def test_equal_widths_are_measured_once(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "measure", lambda *args: room.Effect(1.0, 0.5, None))
    result = sensitivity(out=tmp_path, **{**job, "ratios": (0.5, 0.49, 0.51, 0.0)})
    assert len(result["rows"]) == len({(r["group"], r["kept"]) for r in result["rows"]})
    assert all(r["box_iou_drop"] is None for r in result["rows"])


def test_each_bottleneck_is_measured_missing(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts: list[list[int]] = []

    def note(network: Any, *rest: Any) -> room.Effect:
        counts.append([len(m.m) for m in network.modules() if isinstance(m, SplitC2f)])
        return room.Effect(1.0, 0.5, None)

    monkeypatch.setattr(room, "measure", note)
    rows = sensitivity(out=tmp_path, depth=True, **{**job, "ratios": (0.5,)})["rows"]
    assert [row["group"] for row in rows if not row["kept"]] == ["model.2.m.0.cv1", "model.4.m.0.cv1", "model.9.m.0.cv1"]
    assert counts[-3:] == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert all(count == [1, 1, 1] for count in counts[:-3])


def test_fisher_is_scored_on_training_pictures(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import toolchain.pruning.prune as prune_room

    seen: list[str] = []
    real: Callable[..., Any] = prune_room.labelled_batches
    monkeypatch.setattr(room, "measure", lambda *args: room.Effect(1.0, 0.5, None))
    monkeypatch.setattr(
        prune_room, "labelled_batches", lambda dataset, split, *rest: seen.append(split) or real(dataset, split, *rest)
    )
    sensitivity(out=tmp_path, **{**job, "criterion": "fisher"})
    assert set(seen) == {"train"}


def test_what_does_not_fit_is_refused(job: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean fisher"):
        sensitivity(out=tmp_path, **{**job, "criterion": "fischer"})
    (tmp_path / "data.yaml").write_text("train: nowhere\nval: nowhere\nnames: [a, b, c]\n")
    with pytest.raises(DataError, match="nowhere"):
        sensitivity(out=tmp_path, **{**job, "data": tmp_path / "data.yaml"})


# --- guard -----------------------------------------------------------------------------------------------------------------


def rows(group: str, *pairs: tuple[float, float]) -> list[Row]:
    return [Row(group, 100, int(100 * kept), kept, 0.0, drop, None) for kept, drop in pairs]


@pytest.mark.parametrize(
    ("pairs", "least"),
    [
        ([(0.75, 0.0), (0.5, 0.01), (0.25, 0.2)], 0.5),
        ([(0.75, 0.0), (0.5, 0.0), (0.25, 0.02)], 0.25),  # exactly the allowance
        (
            [(0.75, 0.03), (0.5, 0.0), (0.25, 0.0)],
            1.0,
        ),  # the mildest cut already costs too much; a lucky deeper one does not count
        ([(0.75, 0.0), (0.5, 0.03), (0.25, 0.0)], 0.75),
        ([(0.75, -0.01), (0.5, -0.02)], 0.5),  # better than before is allowed
        ([(0.25, 0.2), (0.75, 0.0), (0.5, 0.01)], 0.5),  # in any order
    ],
)
def test_guard_by_hand(pairs: list[tuple[float, float]], least: float) -> None:
    assert guard(rows("a", *pairs), 0.02) == {"a": least}


def test_guard_keeps_groups_apart() -> None:
    both = rows("a", (0.75, 0.0), (0.5, 0.1)) + rows("b", (0.75, 0.1))
    assert guard(both, 0.02) == {"a": 0.75, "b": 1.0}
    assert guard([], 0.02) == {}
