"""Streaming calibration sees what a run that keeps everything would see."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from toolchain.errors import QuantizationError, UnknownNameError
from toolchain.export.session import cpu_session
from toolchain.quantization.calibrate import observe, ranges
from toolchain.quantization.qdq import plan_placement, share_ranges
from toolchain.quantization.rules import RULES

CONV = "/model.0/conv/Conv_output_0"


def keep_everything(model: onnx.ModelProto, pictures: NDArray[np.float32], tensors: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The straightforward way: all activations of all pictures in memory."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = [name for name in tensors if name != "images"]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    session = cpu_session(copy)
    runs = [session.run(wanted, {"images": picture[None]}) for picture in pictures]
    return {name: np.stack([run[i] for run in runs]) for i, name in enumerate(wanted)} | {"images": pictures}


def test_equals_a_run_that_keeps_everything(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    tensors = (*plan_placement(float_model, RULES["onnxruntime-x86"]).observed, "images")
    found = ranges(observe(float_model, [pictures[:4], pictures[4:]], tensors), "minmax")
    reference = keep_everything(float_model, pictures, tensors)
    assert set(found) == set(reference)
    for name, values in reference.items():
        want = (min(float(values.min()), 0.0), max(float(values.max()), 0.0))
        assert found[name] == pytest.approx(want, abs=1e-5), name


def test_histograms_equal_a_run_that_keeps_everything(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    tensors = plan_placement(float_model, RULES["onnxruntime-x86"]).observed
    seen = observe(float_model, [pictures], tensors)
    for name, values in keep_everything(float_model, pictures, tensors).items():
        if name in seen:
            histogram = seen[name].histogram
            want, _ = np.histogram(values, bins=histogram.edges)
            assert histogram.counts.sum() == values.size
            assert np.abs(histogram.counts - want).sum() <= 0.001 * values.size + 2  # kernels differ with what else is an output


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_batch_size_changes_nothing(float_model: onnx.ModelProto, pictures: NDArray[np.float32], batch: int) -> None:
    tensors = plan_placement(float_model, RULES["onnxruntime-x86"]).observed
    one = ranges(observe(float_model, [pictures], tensors), "moving-average")
    assert ranges(observe(float_model, np.split(pictures, 6 // batch), tensors), "moving-average") == one


def test_batches_are_taken_one_at_a_time_and_let_go(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def stream() -> Iterator[NDArray[np.float32]]:
        for picture in pictures:
            gc.collect()
            # the one just handed out may still be bound to the loop variable; anything older must be gone
            assert sum(ref() is not None for ref in alive) <= 1
            batch = picture[None].copy()
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    steps: list[int] = []
    seen = observe(float_model, stream(), ["images", CONV], advance=steps.append)
    assert steps == [1] * 6
    assert seen["images"].pictures == 6


def test_what_is_kept_does_not_grow(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    tensors = plan_placement(float_model, RULES["onnxruntime-x86"]).observed

    def kept_bytes(count: int) -> int:
        seen = observe(float_model, (pictures[i % 6][None] for i in range(count)), tensors)
        return sum(tensor.histogram.counts.nbytes for tensor in seen.values())

    assert kept_bytes(2) == kept_bytes(12)


def test_refuses_nothing_and_wrong_sizes(float_model: onnx.ModelProto) -> None:
    with pytest.raises(QuantizationError, match="no calibration pictures"):
        observe(float_model, [], ["images", CONV])
    with pytest.raises(QuantizationError, match="do not fit"):
        observe(float_model, [np.zeros((1, 3, 32, 32), np.float32)], ["images", CONV])
    with pytest.raises(QuantizationError, match="not finite"):
        observe(float_model, [np.full((1, 3, 64, 64), np.nan, np.float32)], ["images", CONV])


def test_unknown_method_suggests() -> None:
    with pytest.raises(UnknownNameError, match="did you mean percentile"):
        ranges({}, "percentil")


def test_group_gets_the_union_and_sigmoid_its_own(float_model: onnx.ModelProto, pictures: NDArray[np.float32]) -> None:
    placement = plan_placement(float_model, RULES["onnxruntime-x86"])
    found = share_ranges(ranges(observe(float_model, [pictures[:2]], placement.observed), "minmax"), placement)
    assert set(found) == set(placement.tensors)
    concats = [node for node in float_model.graph.node if node.op_type == "Concat" and node.name in placement.nodes]
    assert len(concats) == 5  # three C2f, SPPF, the neck's own
    for node in concats:
        assert len({found[name] for name in (*node.input, *node.output)}) == 1
    sigmoids = [n.output[0] for n in float_model.graph.node if n.op_type == "Sigmoid" and n.name in placement.nodes]
    assert {found[name] for name in sigmoids} == {(0.0, 1.0)}
