"""Mixed precision: damage is measured where it arises, the costliest layers go first, and no more of them than needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantization.conftest import SIZE
from toolchain.errors import QuantizationError
from toolchain.quantization.mixed import Layer, damages, detection_damage, layers_of, rank, smallest, times_of
from toolchain.quantization.quantizer import Quantizer
from toolchain.quantization.recipe import load_recipe


def quantizer(model: Path, images: list[Path]) -> Quantizer:
    return Quantizer(model, images, imgsz=SIZE, rules="onnxruntime-x86", vnni=False)


def test_layers_are_convs_with_their_activation(float_file: Path, picture_files: list[Path]) -> None:
    made = quantizer(float_file, picture_files)
    layers = layers_of(made.graph, made.whole)
    convs = [node.name for node in made.graph.graph.node if node.op_type == "Conv" and node.name in made.whole.nodes]
    assert [layer.name for layer in layers] == convs
    first = layers[0]
    assert [node.rsplit("/", 1)[1] for node in first.nodes] == ["Conv", "Sigmoid", "Mul"]
    assert first.macs == 8 * 16 * 9 * (SIZE // 4) ** 2
    assert len({node for layer in layers for node in layer.nodes}) == sum(len(layer.nodes) for layer in layers)


def test_a_layer_whose_range_is_spoilt_is_found(float_file: Path, picture_files: list[Path]) -> None:
    made, recipe = quantizer(float_file, picture_files), load_recipe("minmax")
    table, layers = made.table(recipe), layers_of(made.graph, made.whole)
    victim = layers[5]
    output = next(node.output[0] for node in made.graph.graph.node if node.name == victim.name)  # only its SiLU reads it
    low, high = table.ranges[output]
    spoilt = table.model_copy(update={"ranges": {**table.ranges, output: (low * 100, high * 100)}})
    before, after = (damages(made, one, layers, picture_files[:2]) for one in (table, spoilt))
    assert after[victim.name] > 3 * before[victim.name] > 0
    assert {name for name in before if after[name] != before[name]} == {victim.name}


def test_damage_needs_pictures_and_a_detector(float_file: Path, picture_files: list[Path]) -> None:
    made = quantizer(float_file, picture_files[:2])
    table = made.table(load_recipe("minmax"))
    with pytest.raises(QuantizationError, match="no pictures"):
        damages(made, table, layers_of(made.graph, made.whole), [])
    with pytest.raises(QuantizationError, match="not a detector's"):
        detection_damage([np.zeros((3, 5), np.float32)], [np.zeros((3, 5), np.float32)])


def boxes(scores: list[float], shift: float = 0.0) -> np.ndarray:
    """(5, n) boxes of 10 x 10 px, `shift` to the right."""
    return np.array([[20 + shift, 20, 10, 10, score] for score in scores], np.float32).T


def test_damage_by_hand() -> None:
    true = boxes([0.8, 0.2])
    assert detection_damage([true], [true]) == 0
    assert detection_damage([true], [boxes([0.7, 0.2])]) == pytest.approx(0.1)
    half = 1 - 5 / 15  # boxes moved by half their width share 5 of 15 columns
    assert detection_damage([true], [boxes([0.8, 0.2], shift=5)]) == pytest.approx(half)
    assert detection_damage([true], [boxes([0.0, 0.0])]) == pytest.approx(1)
    assert detection_damage([boxes([0.0])], [boxes([0.0])]) == 0


LAYERS = [Layer(name, (name,), 1) for name in "abcd"]


def test_rank_is_damage_per_time_saved() -> None:
    damage = {"a": 4.0, "b": 3.0, "c": 0.1, "d": 0.0}
    assert [layer.name for layer in rank(LAYERS, damage, {"a": 8.0, "b": 1.0, "c": -0.5, "d": -1.0})] == ["c", "b", "a", "d"]


@given(st.integers(0, 70), st.integers(1, 80))
def test_smallest_finds_the_least_and_asks_each_once(most: int, needed: int) -> None:
    asked: list[int] = []

    def passes(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert smallest(most, passes) == (needed if needed <= most else None)
    assert len(set(asked)) == len(asked) <= 14
    assert all(1 <= count <= most for count in asked)


def test_times_go_to_the_layer_a_kernel_was_made_from(float_file: Path, picture_files: list[Path]) -> None:
    made = quantizer(float_file, picture_files)
    first, second = layers_of(made.graph, made.whole)[:2]
    kernels = [(f"{first.name}_output_0_nchwc", 1.0), (f"{first.nodes[-1]}/QuickGeluFusion/", 0.5), (second.nodes[0], 2.0),
               ("ReorderInput_token_3", 9.0), ("/model.1/unknown/Conv", 9.0)]  # fmt: skip
    assert times_of([first, second], made.graph.graph, kernels) == {first.name: 1.5, second.name: 2.0}
