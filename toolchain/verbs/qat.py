"""QAT in the verb that makes INT8: training with the rounding in place, where calibration alone has missed the gate."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import progress, requests
from toolchain.errors import QuantizationError
from toolchain.stage import file_sha256, write_bytes

if TYPE_CHECKING:
    from toolchain.quantization.quantizer import Quantized, Quantizer
    from toolchain.verbs.quantizing import Making
    from toolchain.yolo.dataset import Dataset

FOLDER, FILE = "qat", "model.onnx"


def train_int8(making: Making, start: Quantized) -> tuple[dict[str, Any], Quantized, dict[str, Any]]:
    """Fine-tune the float graph with the rounding of its INT8 twin, distilled from the float graph, and quantize it the same way.

    `qat/` in the output folder keeps the training, which goes on after a stop, and `model.onnx`: the float graph with the trained
    weights.

    Args:
        start: by calibration alone; placement and ranges stay as they are.

    Returns:
        what was done, the graph, and its accuracy by the engine's own outputs.

    Raises:
        QuantizationError: a network that QAT does not know, or data of other classes.
        RunFolderError: `qat/` holds the training of another job.
        TrainingError: the loss is not finite.
    """
    from toolchain.quantization.qat_graph import QatGraph, own_weights, with_weights
    from toolchain.quantization.qat_rounding import read_rounding
    from toolchain.yolo.graph_detector import train_graph

    section, quantizer, judge = making.section.qat, making.quantizer, making.judge
    folder = making.out / FOLDER
    graph = own_weights(start.graph)
    twin = quantizer.place_as(graph, start.placement, start.ranges, start.biases_corrected)
    student = QatGraph(graph, read_rounding(graph, twin.model, saturating=quantizer.saturation_safe))
    teacher = QatGraph(own_weights(quantizer.graph))
    agreement = _compare(student, teacher, quantizer, twin)
    folder.mkdir(exist_ok=True)
    tuned = train_graph(
        _detector(student, judge.dataset), folder, dataset=judge.dataset, teacher=_detector(teacher, judge.dataset),
        settings=requests.qat_settings(section, making.seed), job=_job(making, start), title="QAT",
    )  # fmt: skip
    network: Any = tuned.network
    trained = with_weights(graph, network.body)
    write_bytes(folder / FILE, trained.SerializeToString())
    quantized = quantizer.place_as(trained, start.placement, start.ranges, start.biases_corrected)
    found = judge.attempt(making.trial(quantized, "qat"), "int8-qat", making.name, qat_epochs=section.epochs)
    progress.note(f"  QAT, {section.epochs} epochs: mAP50-95 {found['map50_95']:.4f}")
    report = {
        **section.model_dump(), "map50_95": found["map50_95"], "curve": tuned.curve, "agreement": agreement,
        "file": f"{FOLDER}/{FILE}", "sha256": file_sha256(folder / FILE), "weights": len(student.weights),
        "rounded_tensors": len(student.rounding.grids), "rounded_convs": len(student.rounding.convs),
    }  # fmt: skip
    return report, quantized, found


def _detector(network: Any, dataset: Dataset) -> Any:
    from toolchain.yolo.graph_detector import GraphDetector

    head = network.head
    if head.classes != len(dataset.names):
        got = f"{head.classes} classes in the graph, {len(dataset.names)} in the data"
        raise QuantizationError("the data set has other classes than the network", got=got, fix="give the data it was trained on")
    return GraphDetector(network, strides=head.strides, bins=head.bins, names=dataset.names, imgsz=head.imgsz)


def _compare(student: Any, teacher: Any, quantizer: Quantizer, twin: Quantized) -> dict[str, float]:
    """How well torch does what the runtime's own kernels do, on one training picture, before a long training rests on it.

    Returns:
        root mean squares of the raw outputs: what INT8 changes, and what is left between torch's INT8 and ONNX Runtime's.

    Raises:
        QuantizationError: already in float they disagree.
    """
    from toolchain.imaging import float_batches
    from toolchain.quantization.qat_graph import check_agrees, engine_outputs, raw_outputs

    picture = next(iter(float_batches(quantizer.images[:1], quantizer.imgsz)))[0]
    check_agrees(teacher, quantizer.graph, picture)
    engine, torch_says = engine_outputs(twin.model, student.head, picture), raw_outputs(student, picture)
    change = engine - engine_outputs(quantizer.graph, student.head, picture)
    return {"int8_rms": _rms(change), "gap_rms": _rms(engine - torch_says)}


def _rms(values: Any) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _job(making: Making, start: Quantized) -> dict[str, str]:
    """What the training rests on, so that an unfinished one goes on only for the same."""
    quantizer, recipe = making.quantizer, making.recipe.model_dump(mode="json")
    placed = json.dumps([start.placement.nodes, sorted(start.ranges.items()), quantizer.rules, quantizer.vnni, recipe])
    return {"model": quantizer.sha256, "placement": hashlib.sha256(placed.encode()).hexdigest()}
