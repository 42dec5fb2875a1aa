"""Nodes of real profiles (names as ONNX Runtime 1.32 wrote them for YOLOv8n) folded into the network's layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolchain.report.diagnose_latency import check_latency, why_not_faster
from toolchain.report.html import SLOWEST, write_report
from toolchain.report.layer_times import BETWEEN, layer_times, segments, summary_rows
from toolchain.report.summary import parse_summary


@dataclass(frozen=True)
class Node:
    name: str
    op: str
    min_ms: float
    shape: tuple[int, ...] | None = None


LAYERS = [
    {"name": "model.0.conv", "dense": 16, "kept": 16, "group": None, "reason": None},
    {"name": "model.2.cv1.conv", "dense": 32, "kept": 20},
    {"name": "model.2.m.0.cv1.conv", "dense": 16, "kept": 8},
    {"name": "model.22.cv2.0.0.conv", "dense": 64, "kept": 16},
    {"name": "model.22.cv2.0.2", "dense": 64, "kept": 64},
]
DENSE = [
    Node("/model.0/conv/Conv_output_0_nchwc", "Conv", 0.4, (1, 16, 160, 160)),
    Node("/model.0/act/Mul/QuickGeluFusion/", "QuickGelu", 0.2, (1, 16, 160, 160)),
    Node("/model.2/cv1/conv/Conv_output_0_nchwc", "Conv", 0.2, (1, 32, 80, 80)),
    Node("/model.2/cv1/act/Mul/QuickGeluFusion/", "QuickGelu", 0.1),
    Node("ReorderOutput_token_249", "ReorderOutput", 0.04, (1, 32, 80, 80)),
    Node("/model.2/Split", "Split", 0.05),
    Node("ReorderInput_token_17", "ReorderInput", 0.02),
    Node("/model.2/m.0/cv1/conv/Conv_output_0_nchwc", "Conv", 0.4, (1, 16, 80, 80)),
    Node("/model.2/m.0/Add", "Add", 0.03),
    Node("/model.9/m/MaxPool_output_0_nchwc", "MaxPool", 0.02),
    Node("/model.9/m_1/MaxPool_output_0_nchwc", "MaxPool", 0.03),
    Node("/model.10/Resize_output_0_nchwc", "Upsample", 0.01),
    Node("/model.22/cv2.0/cv2.0.0/conv/Conv_output_0_nchwc", "Conv", 1.2, (1, 64, 40, 40)),
    Node("/model.22/cv2.0/cv2.0.0/act/Mul/QuickGeluFusion/", "QuickGelu", 0.05),
    Node("/model.22/cv2.0/cv2.0.2/Conv_output_0_nchwc", "Conv", 0.15, (1, 64, 40, 40)),
    Node("/model.22/Concat_1", "Concat", 0.03),
    Node("/model.22/dfl/Softmax", "Softmax", 1.4, (1, 16, 4, 2100)),
    Node("/model.22/dfl/conv/Conv_output_0_nchwc", "Conv", 0.05, (1, 8, 4, 2100)),
]
INT8 = [
    Node("images_QuantizeLinear", "QuantizeLinear", 0.1),
    Node("/model.0/conv/Conv_token_27", "QLinearConv", 0.3, (1, 160, 160, 16)),
    Node("/model.0/act/Sigmoid", "QLinearSigmoid", 0.1),
    Node("/model.2/Slice_1/GatherSliceToSplitFusion", "Split", 0.05),
    Node("/model.9/m_2/MaxPool_token_346", "NhwcMaxPool", 0.02),
    Node("/model.10/Resize", "Resize", 0.06),
]


def by_name(rows: list[Any]) -> dict[tuple[str, str], Any]:
    found = {(row.layer, row.op): row for row in rows}
    assert len(found) == len(rows), "a row twice"
    return found


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/model.22/cv2.0/cv2.0.1/conv/Conv", "model.22.cv2.0.1.conv.Conv"),
        ("/model.2/m.0/m/m.1/cv1/conv/Conv", "model.2.m.0.m.1.cv1.conv.Conv"),
        ("/model.0/act/Mul/QuickGeluFusion/", "model.0.act.Mul.QuickGeluFusion"),
        ("model.0.conv.weight_DequantizeLinear", "model.0.conv.weight_DequantizeLinear"),
        ("", ""),
    ],
)
def test_module_paths_from_node_names(name: str, path: str) -> None:
    assert ".".join(segments(name)) == path


def test_every_node_is_in_one_row_and_no_time_is_lost() -> None:
    rows = by_name(layer_times(DENSE, DENSE, LAYERS, align=8, imgsz=320))
    assert {key: round(row.dense_ms, 6) for key, row in rows.items()} == {
        ("model.0", "Conv"): 0.6,
        ("model.2.cv1", "Conv"): 0.3,
        ("model.2.m.0.cv1", "Conv"): 0.4,
        ("model.22.cv2.0.0", "Conv"): 1.25,
        ("model.22.cv2.0.2", "Conv"): 0.15,
        (BETWEEN, "Reorder"): 0.06,
        ("model.2", "Split"): 0.05,
        ("model.2.m.0", "Add"): 0.03,
        ("model.9.m", "MaxPool"): 0.05,
        ("model.10", "Resize"): 0.01,
        ("model.22 decoding", "Softmax"): 1.48,
    }
    assert sum(row.dense_ms for row in rows.values()) == pytest.approx(sum(node.min_ms for node in DENSE))


def test_names_that_begin_alike_stay_apart() -> None:
    inside = [{"name": name, "dense": 8, "kept": 8} for name in ("model.1.conv", "model.1.cv2", "model.2.cv1.conv")]
    names = ("/model.1/conv/Conv", "/model.1/cv2/Conv", "/model.10/Conv", "/model.2/cv1/conv/Conv", "/model.2/cv10/Conv")
    nodes = [Node(name, "Conv", 0.1) for name in names]
    rows = layer_times(nodes, nodes, [*inside, {"name": "model.22.cv2.conv", "dense": 8, "kept": 8}], align=8)
    assert [row.layer for row in rows] == ["model.1", "model.1.cv2", "model.2.cv1", "model.10", "model.2.cv10"]
    assert [row.dense_ms for row in rows] == [0.1] * 5


def test_channels_alignment_and_stride_of_layers() -> None:
    rows = {row.layer: row for row in layer_times(DENSE, DENSE, LAYERS, align=8, imgsz=320)}
    assert [(r.dense_channels, r.kept_channels, r.aligned, r.stride) for r in list(rows.values())[:5]] == [
        (16, 16, True, 2), (32, 20, False, 4), (16, 8, True, 4), (64, 16, True, 8), (64, 64, True, 8)
    ]  # fmt: skip
    assert rows[BETWEEN].dense_channels is None
    assert layer_times(DENSE, DENSE, LAYERS, align=8)[0].stride is None


def test_int8_kernels_meet_their_float_rows_and_the_unknown_is_left_out() -> None:
    rows = by_name(layer_times(DENSE, INT8, LAYERS, align=8, imgsz=320))
    assert rows["model.0", "Conv"].pruned_ms == pytest.approx(0.4)
    assert [key for key in rows if key[0] == "model.2.cv1"] == []  # no node of the INT8 engine carries its name
    assert rows["model.9.m", "MaxPool"].pruned_ms == 0.02
    assert rows["model.10", "Resize"].pruned_ms == 0.06
    assert rows[BETWEEN, "QuantizeLinear"].dense_ms == 0.0
    assert rows["model.22 decoding", "Softmax"].pruned_ms == 0.0
    assert by_name(layer_times(INT8, INT8, LAYERS, align=8, imgsz=320))["model.0", "Conv"].stride == 2


def pruned(**times: float) -> list[Node]:
    """The dense profile with every convolution of `LAYERS` at a third, but for those given by path."""
    nodes = []
    for node in DENSE:
        path = ".".join(segments(node.name))
        given = next((ms for layer, ms in times.items() if path.startswith(layer.replace("_", "."))), None)
        ms = given if given is not None and node.op == "Conv" else node.min_ms / 3
        nodes.append(Node(node.name, node.op, ms, node.shape))
    return nodes


def test_the_misaligned_layer_is_named_with_its_reason() -> None:
    rows = layer_times(DENSE, pruned(model_2_cv1=0.3), LAYERS, align=8, imgsz=320)
    assert [(row.layer, why_not_faster(row)) for row in rows if why_not_faster(row)] == [("model.2.cv1", "misaligned width")]
    (finding,) = check_latency(0.4, 0.98, rows)
    assert finding.severity == "problem"
    assert finding.numbers["model.2.cv1 (Conv)"] == "0.300 → 0.333 ms, 32 → 20 channels: misaligned width"
    assert "alignment" in finding.next
    aligned = layer_times(DENSE, pruned(model_2_cv1=0.3), LAYERS, align=4, imgsz=320)
    assert [why_not_faster(row) for row in aligned if why_not_faster(row)] == ["large map, few channels"]


def test_profiles_of_a_run_as_its_stage_keeps_them() -> None:
    from toolchain.results import profiled

    kept = {
        label: [
            {"name": n.name, "op": n.op, "provider": None, "mean_ms": 9.0, "min_ms": n.min_ms, "shape": n.shape and list(n.shape)}
            for n in nodes
        ]
        for label, nodes in {"dense": DENSE, "pruned": pruned()}.items()
    }
    assert profiled(kept, LAYERS, 8, 320) == layer_times(DENSE, pruned(), LAYERS, align=8, imgsz=320)
    assert profiled({}, LAYERS, 8, 320) == []


def test_a_layer_is_found_under_the_name_it_has_now_and_one_that_is_gone_takes_no_time() -> None:
    layers = [
        {"name": "model.4.m.0.cv1.conv", "now": None, "dense": 16, "kept": 0},
        {"name": "model.4.m.1.cv1.conv", "now": "model.4.m.0.cv1.conv", "dense": 16, "kept": 8},
        {"name": "model.22.cv2.0.2", "now": "model.22.cv2.0.2", "dense": 64, "kept": 64},
    ]
    dense = [Node(f"/model.4/m.{i}/{op}", op.rpartition("/")[2], 1.0 + i) for i in (0, 1) for op in ("cv1/conv/Conv", "Add")]
    cut = [Node("/model.4/m.0/cv1/conv/Conv", "Conv", 0.5), Node("/model.4/m.0/Add", "Add", 0.7)]
    rows = by_name(layer_times(dense, cut, layers, align=8))
    assert {key: (row.dense_ms, row.pruned_ms, row.kept_channels) for key, row in rows.items()} == {
        ("model.4.m.0.cv1", "Conv"): (1.0, 0.0, 0),
        ("model.4.m.1.cv1", "Conv"): (2.0, 0.5, 8),
        ("model.4.m.0", "Add"): (1.0, 0.0, None),
        ("model.4.m.1", "Add"): (2.0, 0.7, None),
    }
    assert all(why_not_faster(row) is None for row in rows.values())


def test_what_each_kind_of_row_is_blamed_for() -> None:
    rows = layer_times(DENSE, DENSE, LAYERS, align=8, imgsz=320)
    reasons = {row.layer: why_not_faster(row) for row in rows}
    assert reasons["model.0"] == "not pruned"
    assert reasons[BETWEEN] == reasons["model.2"] == reasons["model.10"] == "copies or reorders data"
    assert reasons["model.22 decoding"] == reasons["model.2.m.0"] == "bound by memory"


def test_a_network_that_is_no_list_of_modules() -> None:
    nodes = [Node("/stem/Conv", "Conv", 0.2, (1, 8, 4, 4)), Node("/neck/Concat_3", "Concat", 0.1), Node("", "Cast", 0.1)]
    rows = by_name(layer_times(nodes, nodes, [{"name": "stem", "dense": 8, "kept": 8}], align=8, imgsz=8))
    assert set(rows) == {("stem", "Conv"), ("neck", "Concat"), (BETWEEN, "Cast")}
    assert layer_times([], [], LAYERS, align=8) == []


def test_the_report_shows_the_slowest_layers(tmp_path: Path, summary: dict[str, Any]) -> None:
    rows = summary_rows(layer_times(DENSE, pruned(model_2_cv1=0.3), LAYERS, align=8, imgsz=320))
    many = [{**rows[0], "layer": f"model.{number}.small", "pruned_ms": 0.0001} for number in range(30, 50)]
    write_report({**summary, "profile": [*rows, *many]}, tmp_path / "report.html")
    section = (tmp_path / "report.html").read_text().split("Slowest layers")[1].split("</section>")[0]
    assert section.count('scope="row"') == SLOWEST
    assert section.index("model.22 decoding") < section.index("model.22.cv2.0.0") < section.index("model.2.cv1")
    assert "misaligned width" in section
    assert "32 → 20" in section


def test_the_report_says_when_there_is_no_profile(tmp_path: Path, summary: dict[str, Any]) -> None:
    write_report(summary, tmp_path / "report.html")
    assert "not profiled layer by layer" in (tmp_path / "report.html").read_text()
    assert parse_summary(summary).profile == []
