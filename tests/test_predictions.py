"""Candidates keep their picture, and a file that came from elsewhere is checked before it is believed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import DataError
from toolchain.predictions import MIN_SCORE, Predictions, candidates


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 30), st.integers(0, 10_000))
def test_candidates_are_the_anchors_above_the_threshold(images: int, classes: int, anchors: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    output = rng.uniform(0, 2 * MIN_SCORE, (images, 4 + classes, anchors)).astype(np.float32)
    rows, counts = candidates(output)
    expected = [output[i, :, a] for i in range(images) for a in range(anchors) if output[i, 4:, a].max() > MIN_SCORE]
    assert np.array_equal(rows, np.array(expected, np.float32).reshape(-1, 4 + classes))
    assert counts.tolist() == [sum(output[i, 4:, a].max() > MIN_SCORE for a in range(anchors)) for i in range(images)]


def test_each_picture_gets_its_own_rows(tmp_path: Path) -> None:
    predictions = Predictions(np.arange(30, dtype=np.float32).reshape(5, 6), np.array([2, 0, 3], np.int64))
    predictions.save(tmp_path / "a.npz")
    back = Predictions.load(tmp_path / "a.npz")
    assert [back.of(index).tolist() for index in range(3)] == [predictions.rows[:2].tolist(), [], predictions.rows[2:].tolist()]
    assert np.array_equal(back.counts, predictions.counts)
    assert back.counts.dtype == np.int64


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file was executed",))


def _write(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


ROWS, COUNTS = np.zeros((3, 7), np.float32), np.array([1, 2])
BAD = {
    "missing": lambda path: None,
    "one array": lambda path: (np.save(path.with_suffix(".npy"), ROWS), path.with_suffix(".npy").rename(path)),
    "text": lambda path: path.write_text("no"),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: (_write(path, rows=ROWS, counts=COUNTS), path.write_bytes(path.read_bytes()[:200])),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"rows": 1})),
    "objects": lambda path: _write(path, rows=np.array([Evil()], dtype=object), counts=COUNTS),
    "other keys": lambda path: _write(path, boxes=ROWS, counts=COUNTS),
    "float64": lambda path: _write(path, rows=ROWS.astype(np.float64), counts=COUNTS),
    "3-d": lambda path: _write(path, rows=ROWS[None], counts=COUNTS),
    "float counts": lambda path: _write(path, rows=ROWS, counts=COUNTS.astype(np.float32)),
    "too few": lambda path: _write(path, rows=ROWS, counts=np.array([1])),
    "negative": lambda path: _write(path, rows=ROWS, counts=np.array([-1, 4])),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_file_is_refused_and_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    BAD[kind](path)
    with pytest.raises(DataError) as raised:
        Predictions.load(path)
    assert "bad.npz" in str(raised.value)
