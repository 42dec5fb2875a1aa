"""Ask all rules about a graph. Pure ONNX: no TensorRT, no GPU, nothing is run."""

from __future__ import annotations

import onnx

from toolchain.errors import ExportError
from toolchain.tensorrt import refused, slow  # noqa: F401 - importing registers the rules
from toolchain.tensorrt.graph import Graph, label
from toolchain.tensorrt.registry import RULES, Finding
from toolchain.tensorrt.versions import get_version

SHOWN = 5
STRONG_ONLY = ("H8",)  # weak typing converts where types differ


def verify(model: onnx.ModelProto, version: str, *, weak: bool = False) -> list[Finding]:
    """What that TensorRT refuses (errors, first) and what it would run slowly or coarsely (warnings), in the order of the rules.

    On 10 and later the network is taken to be strongly typed, as the agent builds a graph that says its own types.

    Args:
        version: "10.3", "10.3.0" or "10.3.0.30"; of 8.5, 8.6, 10.0 to 10.16, 11.0 to 11.4.
        weak: it is weakly typed, as up to 10 it is where flags of the builder choose precisions.

    Raises:
        UnknownNameError: another version.
    """
    of, graph = get_version(version), Graph(model)
    found = [
        Finding(rule.name, rule.level, label(node) if node is not None else "", text, rule.fix)
        for rule in RULES.values()
        if rule.holds(of) and not (weak and rule.name in STRONG_ONLY)
        for node, text in rule.check(graph, of)
    ]
    return sorted(found, key=lambda finding: finding.level == "warning")


def check_accepted(model: onnx.ModelProto, version: str, *, weak: bool = False) -> list[Finding]:
    """The warnings of `verify`.

    Raises:
        ExportError: there are errors; names the nodes and what to do.
        UnknownNameError: a version nothing is known about.
    """
    found = verify(model, version, weak=weak)
    if any(finding.level == "error" for finding in found):
        raise refusal(version, found)
    return found


def refusal(version: str, found: list[Finding]) -> ExportError:
    """The error that a graph with such findings is, its first nodes named."""
    errors = [finding for finding in found if finding.level == "error"]
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    got = "; ".join(str(finding) for finding in errors[:SHOWN]) + more
    fix = "; ".join(dict.fromkeys(finding.fix for finding in errors))
    return ExportError(f"TensorRT {version} would refuse the graph", got=got, fix=fix)
