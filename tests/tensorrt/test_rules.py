"""Every rule is shown by a graph that breaks it and by one that does not; versions and operators are data."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.tensorrt import graphs as g
from tests.tensorrt.corpus import MUTATIONS, corpus
from toolchain.errors import ExportError, UnknownNameError
from toolchain.tensorrt.operators import ADDED, INTEGER, SINCE_8_5, operators
from toolchain.tensorrt.verify import RULES, check_accepted, verify
from toolchain.tensorrt.versions import VERSIONS, get_version


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_what_to_do_and_is_shown(name: str) -> None:
    """By at least one graph that breaks it, and with its source."""
    rule = RULES[name]
    assert rule.name == name
    assert rule.fix
    assert rule.source
    assert (rule.check.__doc__ or "").strip()
    assert name in {case.rule for case in MUTATIONS.values()}
    assert any(rule.holds(version) for version in VERSIONS.values())


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_changed_property_is_one_finding(name: str) -> None:
    """Of the rule meant, at the node meant, with its level and remedy."""
    case = MUTATIONS[name]
    model = g.good(half=case.half)
    case.change(model)
    found = verify(model, case.version)
    if not case.half and case.rule != "typed":
        found = [finding for finding in found if finding.rule != "typed"]
    assert [(finding.rule, finding.node) for finding in found] == [(case.rule, case.node)], found
    assert found[0].level == RULES[case.rule].level
    assert found[0].fix == RULES[case.rule].fix
    assert found[0].text


@pytest.mark.parametrize("version", VERSIONS)
def test_good_graphs_are_taken(version: str) -> None:
    """The float32 one by all versions, the FP16 one from 10 on."""
    newer = get_version(version).number >= (10, 0)
    assert [finding.rule for finding in verify(g.good(), version)] == (["typed"] if newer else [])
    rules = {finding.rule for finding in verify(g.good(half=True), version)}
    assert rules == (set() if newer else {"H6", "H7", "opset"})


@pytest.mark.parametrize("version", VERSIONS)
def test_verify_never_changes_the_graph(version: str) -> None:
    for model in corpus().values():
        before = model.SerializeToString()
        for finding in verify(model, version):
            assert finding.level in ("error", "warning")
        assert model.SerializeToString() == before


def test_a_version_is_recognised_in_full() -> None:
    assert get_version("10.3.0.30").name == get_version(" 10.3.0 ").name == "10.3"
    assert get_version("8.5.2").number == (8, 5)
    assert list(VERSIONS) == ["8.5", "8.6", *(f"10.{minor}" for minor in range(17)), *(f"11.{minor}" for minor in range(5))]
    for unknown in ("9.1", "12.0", "10", "10.3rc1", ""):
        with pytest.raises(UnknownNameError, match="TensorRT version"):
            get_version(unknown)


def test_operators_are_onnx_names_and_only_grow() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    foreign = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX before 1.0
    newest = operators(get_version("11.4"))
    assert {name for name in newest - known if name not in foreign} <= {"Swish", "TensorScatter"}
    assert not newest & set(INTEGER)
    assert len(newest) == len(SINCE_8_5) + sum(len(names) for names in ADDED.values())
    sizes = [len(operators(version)) for version in VERSIONS.values()]
    assert sizes == sorted(sizes)
    assert "LayerNormalization" not in operators(get_version("8.5"))
    assert "LayerNormalization" in operators(get_version("8.6"))


def test_nodes_of_branches_and_local_functions_are_seen() -> None:
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    branch = helper.make_graph([helper.make_node("MyOperator", ["x"], ["z"], "inner")], "branch", [], [value[1]])
    branch.output[0].name = "z"
    condition = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    choose = helper.make_node("If", ["c"], ["y"], "choose", then_branch=branch, else_branch=branch)
    model = helper.make_model(
        helper.make_graph([choose], "net", [value[0], condition], [value[1]]), opset_imports=[helper.make_opsetid("", 17)]
    )
    assert [(finding.rule, finding.node) for finding in verify(model, "10.3")] == [("operator", "inner")] * 2
    call = helper.make_node("Twice", ["x"], ["y"], "call", domain="local")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    body = [helper.make_node("Add", ["a", "a"], ["b"], "sum")]
    twice = helper.make_function("local", "Twice", ["a"], ["b"], body, opsets[:1])
    model = helper.make_model(helper.make_graph([call], "net", value[:1], value[1:]), opset_imports=opsets, functions=[twice])
    assert verify(model, "10.3") == []
    assert [finding.node for finding in verify(model, "8.6")] == ["call"]


def test_nodes_without_a_name_are_named_by_their_output() -> None:
    model = g.good(half=True)
    MUTATIONS["zero_point"].change(model)
    g.node(model, "a_q").name = ""
    assert [finding.node for finding in verify(model, "11.0")] == ["QuantizeLinear -> a_q_out"]


def test_the_error_names_nodes_and_remedies() -> None:
    model = g.good()
    assert [finding.rule for finding in check_accepted(model, "11.0")] == ["typed"]
    g.int32_bias(model)
    MUTATIONS["zero_point"].change(model)
    with pytest.raises(ExportError, match=r"TensorRT 10\.3\.0 would refuse the graph") as caught:
        check_accepted(model, "10.3.0")
    text = str(caught.value)
    assert "H1 a_q: zero point 5, not 0" in text
    assert "H3 bias_dq: int32, not int8" in text
    assert "--runtime tensorrt" in text


def test_weights_in_a_file_beside_the_graph_need_not_be_loaded(tmp_path: Path) -> None:
    onnx.save(g.good(half=True), tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    assert [finding for finding in verify(model, "11.4") if finding.level == "error"] == []
