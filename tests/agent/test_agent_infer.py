from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolchain import predictions
from toolchain.agent import engines, infer
from toolchain.agent.wire import AgentError


class FakeEngine:
    def __init__(self, shape: list[int | str | None], kind: str = "float32") -> None:
        self.inputs = [{"name": "images", "shape": shape, "type": kind}]


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(5, 8), st.integers(1, 20)), elements=st.floats(0, 1, width=32)
    )
)
def test_candidates_are_those_of_the_toolchain(output: np.ndarray) -> None:
    rows, counts = infer.candidates(output)
    wanted_rows, wanted_counts = predictions.candidates(output)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(counts, wanted_counts)
    assert (rows.dtype, counts.dtype) == (np.float32, np.int64)


def test_threshold_is_the_toolchains() -> None:
    assert infer.MIN_SCORE == predictions.MIN_SCORE


@pytest.mark.parametrize(
    ("shape", "imgsz", "expected"),
    [([1, 3, 64, 64], None, (1, 3, 64, 64)), (["batch", 3, "h", None], 32, (1, 3, 32, 32)), ([4, 3, 8, 8], 32, (4, 3, 8, 8))],
)
def test_input_shape(shape: list[int | str | None], imgsz: int | None, expected: tuple[int, ...]) -> None:
    assert engines.input_shape(FakeEngine(shape), imgsz) == expected


@pytest.mark.parametrize("shape", [[1, 3, None, None], [1, 3, 64]])
def test_input_shape_that_cannot_be_known(shape: list[int | str | None]) -> None:
    with pytest.raises(AgentError):
        engines.input_shape(FakeEngine(shape), None)


def test_pictures_become_what_the_engine_takes() -> None:
    images = np.array([[[[0, 51, 255]]]], dtype=np.uint8)
    np.testing.assert_array_equal(engines.as_input(FakeEngine([1], "float32"), images), np.float32([[[[0, 0.2, 1]]]]))
    assert engines.as_input(FakeEngine([1], "float16"), images).dtype == np.float16
    assert engines.as_input(FakeEngine([1], "uint8"), images) is images
    with pytest.raises(AgentError):
        engines.as_input(FakeEngine([1], "int64"), images)


def test_outputs_that_are_no_detections_are_refused() -> None:
    good = np.zeros((1, 7, 16), dtype=np.float32)
    assert infer.checked([good], 1).shape == (1, 7, 16)
    for bad in (good[0], good[:, :4], good[:0], good + np.float32(np.nan)):
        with pytest.raises(AgentError):
            infer.checked([bad], 1)


def test_bench_input_is_seeded_and_not_flat() -> None:
    first, again = (engines.random_input(FakeEngine([1, 3, 16, 16]), None) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.std() > 0.2
