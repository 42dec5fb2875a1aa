"""Whole detections are timed with the bundle's own program; that it does what the host does is in tests/device/test_bundle.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toolchain.agent import end_to_end
from toolchain.agent.wire import AgentError
from toolchain.device import bundle
from toolchain.device.agent_package import agent_package
from toolchain.yolo import evaluate


def test_thresholds_are_those_of_evaluation() -> None:
    assert (bundle.NMS_IOU, bundle.MAX_DETECTIONS) == (evaluate.NMS_IOU, evaluate.MAX_DETECTIONS)


def test_the_agent_carries_the_bundles_own_program() -> None:
    assert b"def letterbox(" in agent_package().data


class Job:
    def __init__(self, **request: Any) -> None:
        self.request = request

    def need(self, name: str, kind: Any) -> Any:
        return self.request[name]


def test_picture_is_the_one_asked_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = end_to_end.picture_of(Job(height=20, width=30))
    assert (made.shape, made.dtype) == ((20, 30, 3), np.uint8)
    assert np.unique(made).size > 100
    path = tmp_path / "picture.npy"
    np.save(path, made[:5])
    np.testing.assert_array_equal(end_to_end.picture_of(Job(picture=str(path))), made[:5])
    np.save(path, made[..., 0])
    with pytest.raises(AgentError, match="height, width, 3"):
        end_to_end.picture_of(Job(picture=str(path)))


def test_input_that_is_no_square_is_refused() -> None:
    assert end_to_end.side_of(np.zeros((1, 3, 32, 32))) == 32
    with pytest.raises(AgentError, match="32 by 64"):
        end_to_end.side_of(np.zeros((1, 3, 32, 64)))
