"""A device that lies while a bundle is built and deployed, engines are swept, its folder is cleaned; see test_lying_device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from tests.device.test_lying_device import ON, lies, place, record  # noqa: F401 - place is a fixture
from toolchain.device import bundle, clean, deploy, sweep, turns
from toolchain.device.manifest import verify
from toolchain.device.sweep import Candidate

LABELS = ["a", "b", "c"]


def test_build(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    graph, out = tinynet.save_detector(place.parent / "net.onnx"), place / "bundle"

    def work() -> Any:
        return bundle.build(graph, out, ON, labels=LABELS, imgsz=32, precision="fp32")

    said = record(monkeypatch, work)
    around = sorted(path.name for path in place.parent.iterdir())

    def right(manifest: dict[str, Any]) -> None:
        assert verify(out).to_json() == manifest
        assert manifest["tried"]["load_ms"] > 0
        assert sorted(path.name for path in place.parent.iterdir()) == around
        assert [path.name for path in place.iterdir()] == ["bundle"]

    lies(bundle, monkeypatch, said, work, right)


def test_deploy(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    graph = tinynet.save_detector(place.parent / "net.onnx")
    bundle.build(graph, place / "bundle", ON, labels=LABELS, imgsz=32, precision="fp32")
    before = {path.name: path.read_bytes() for path in (place / "bundle").iterdir()}

    def work() -> Any:
        return deploy.deploy(place / "bundle", ON, to=str(place / "models"), name="net")

    said = record(monkeypatch, work)

    def right(found: Any) -> None:
        assert found.folder
        assert {path.name: path.read_bytes() for path in (place / "bundle").iterdir()} == before

    lies(deploy, monkeypatch, said, work, right)


def test_sweep(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(sweep, "LOADS", 2)
    monkeypatch.setattr(sweep, "MOST_LOADS", 2)
    monkeypatch.setattr(turns, "RUNS", 2)
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)
    reference, engine = (tinynet.save_detector(place.parent / f"{name}.onnx", seed=i) for i, name in enumerate("re"))
    number = [0]

    def work() -> Any:
        number[0] += 1
        return sweep.sweep([Candidate("e", lambda: engine)], reference, place / f"{number[0]}.jsonl", on=ON)

    said = record(monkeypatch, work)

    def right(found: list[sweep.Timing]) -> None:
        assert 0 < found[0].ratio < float("inf")
        assert found == list(sweep.load(place / f"{number[0]}.jsonl", sweep.file_sha256(reference)).values())

    lies(sweep, monkeypatch, said, work, right)


def test_clean(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(place / "cache"))
    said = record(monkeypatch, lambda: clean.clean(ON))
    lies(clean, monkeypatch, said, lambda: clean.clean(ON), lambda found: json_able(found.to_json()))


def json_able(value: dict[str, Any]) -> None:
    assert value["bytes"] == sum(one["bytes"] for one in value["removed"].values())
