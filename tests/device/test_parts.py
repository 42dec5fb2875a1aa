"""The parts of a long inference: kept, gone on with, never mixed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tinynet
from toolchain import errors
from toolchain.device import parts as module
from toolchain.device.engine_messages import InferAnswer
from toolchain.device.infer import infer
from toolchain.device.parts import Parts
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.predictions import Predictions

ON = On(threads=1)


def answer(images: int = 2, **change: Any) -> InferAnswer:
    fields = {"path": "/x", "sha256": "ab" * 32, "size": 1, "images": images, "batch": 1, "seconds": 0.5, "load_ms": 1.0}
    return InferAnswer(**{**fields, "provider": "p", "runtime_version": "1", **change})


def save(path: Path, images: int = 2) -> None:
    Predictions(np.ones((images, 7), np.float32), np.ones(images, np.int64)).save(path)


def test_parts_are_found_again_and_put_together(tmp_path: Path) -> None:
    out, about = tmp_path / "out.npz", {"engine": "a"}
    parts = Parts.open(out, about)
    for number in range(2):
        one = answer(sha256=f"{number:064d}")
        save(parts.file(one))
        parts.add(one)
    again = Parts.open(out, about)
    assert again.images == 4
    predictions, answers = again.finish()
    assert (len(predictions.counts), len(answers)) == (4, 2)
    assert len(Predictions.load(out).counts) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


def test_parts_of_another_job_are_not_used(tmp_path: Path) -> None:
    parts = Parts.open(tmp_path / "out.npz", {"engine": "a"})
    save(parts.file(answer()))
    parts.add(answer())
    assert Parts.open(tmp_path / "out.npz", {"engine": "b"}).images == 0


def test_a_part_that_waits_on_the_device_is_remembered(tmp_path: Path) -> None:
    parts = Parts.open(tmp_path / "out.npz", {})
    parts.expect(answer())
    assert Parts.open(tmp_path / "out.npz", {}).pending() == answer()
    parts.forget()
    assert parts.pending() is None


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    parts = Parts.open(tmp_path / "out.npz", {})
    save(parts.file(answer()))
    parts.add(answer())
    parts.file(answer()).write_bytes(b"damaged")
    assert Parts.open(tmp_path / "out.npz", {}).images == 0


@pytest.mark.parametrize("lie", ["packed", "count", "none", "nan", "nonsense"])
def test_a_part_that_is_not_what_it_must_be(tmp_path: Path, lie: str) -> None:
    parts = Parts.open(tmp_path / "out.npz", {})
    one = answer(0 if lie == "none" else 2)
    path = parts.file(one)
    save(path, {"count": 3, "none": 0}.get(lie, 2))
    if lie == "packed":  # a bomb would be
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.npy", b"0" * 1000)
    elif lie == "nan":
        Predictions(np.full((2, 7), np.nan, np.float32), np.ones(2, np.int64)).save(path)
    elif lie == "nonsense":
        path.write_bytes(b"nonsense")
    with pytest.raises((errors.DataError, errors.ProtocolError)):
        parts.add(one)
    assert parts.images == 0


def test_size_of_a_part(tmp_path: Path) -> None:
    parts = Parts.open(tmp_path / "out.npz", {})
    assert parts.next_size() == module.FIRST_IMAGES
    for seconds, size in [(0.01, 4000), (1.0, 40), (100.0, module.LEAST_IMAGES), (1e-9, module.MOST_IMAGES)]:
        parts.done = [(answer(seconds=seconds), Predictions(np.ones((0, 7), np.float32), np.zeros(0, np.int64)))]
        assert parts.next_size() == size


def test_inference_goes_on_with_what_the_device_still_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_IMAGES", 8)
    monkeypatch.setattr(module, "MOST_IMAGES", 8)
    engine, images, asked = tinynet.save_detector(tmp_path / "one.onnx"), tmp_path / "images.npy", []
    np.save(images, tinynet.pictures(24))
    request = AgentSession.request

    def cut(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        asked.append(op)
        if op == "get" and asked.count("get") == 2:
            raise errors.ConnectionLostError("cut")
        return request(self, op, **fields)

    monkeypatch.setattr(AgentSession, "request", cut)
    with pytest.raises(errors.ConnectionLostError):
        infer(engine, images, tmp_path / "out.npz", ON)
    assert asked.count("infer") == 2
    assert infer(engine, images, tmp_path / "out.npz", ON).images == 24
    assert asked.count("infer") == 3, "the part that was ready is fetched, not made again"
    assert len(Predictions.load(tmp_path / "out.npz").counts) == 24
