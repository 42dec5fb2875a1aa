"""The rules against NVIDIA's parser: stored verdicts everywhere, the parser itself where its wheels are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.tensorrt.corpus import EXPECTED, MUTATIONS, VERSION, corpus
from tests.tensorrt.rtx import ask, need_rtx
from toolchain.tensorrt.operators import operators
from toolchain.tensorrt.verify import RULES, verify
from toolchain.tensorrt.versions import get_version

VERDICTS: dict[str, Any] = json.loads(EXPECTED.read_text())
STRICTER = {
    "large_top_k": "topk",  # parsed, but no TensorRT can build it
    "new_opset": "opset",  # the parser tries any; NVIDIA vouches for those up to 24
}


@pytest.mark.parametrize("name", VERDICTS)
def test_rules_refuse_what_the_parser_refuses(name: str) -> None:
    errors = {finding.rule for finding in verify(corpus()[name], VERSION) if finding.level == "error"}
    if name in STRICTER:
        assert errors == {STRICTER[name]}
        assert VERDICTS[name]["stage"] == ("build" if name == "large_top_k" else "ok")
    else:
        assert bool(errors) == (VERDICTS[name]["stage"] == "parse"), (errors, VERDICTS[name])


def test_every_rule_is_shown_by_a_graph_that_the_parser_refuses() -> None:
    """Of those that hold for the version it speaks for; H5 to H7 are of 8.x alone, and `topk` is the builder's."""
    shown = {case.rule for name, case in MUTATIONS.items() if case.version == VERSION and VERDICTS[name]["stage"] == "parse"}
    errors = {name for name, rule in RULES.items() if rule.level == "error" and rule.holds(get_version(VERSION))}
    assert errors - shown == {"topk"}
    assert VERDICTS["large_top_k"]["stage"] == "build"


def test_every_graph_has_a_verdict() -> None:
    assert set(corpus()) == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_stored_verdicts_are_the_parsers(name: str) -> None:
    need_rtx()
    found = ask(corpus()[name])
    assert found["stage"] == VERDICTS[name]["stage"], found
    assert [error["text"][:160] for error in found["errors"]][:1] == VERDICTS[name]["text"]


def test_the_table_of_operators_is_the_parsers() -> None:
    """Of the newest opset; older ones still have Scatter and Upsample, and DeformConv comes from a plugin that RTX lacks."""
    need_rtx()
    done = subprocess.run(
        [sys.executable, "-m", "tests.tensorrt.rtx_operators", "24"], capture_output=True, text=True, check=True
    )
    found = set(json.loads(done.stdout.splitlines()[-1]))
    absent = {"DeformConv", "ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample"}
    assert found == operators(get_version(VERSION)) - absent
