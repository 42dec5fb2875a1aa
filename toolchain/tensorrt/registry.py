"""What a rule is, and the list of all of them. A rule is one function; `refused.py` and `slow.py` hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import onnx

from toolchain.tensorrt.graph import Graph
from toolchain.tensorrt.versions import Version

Level = Literal["error", "warning"]
Found = Iterable[tuple[onnx.NodeProto | None, str]]  # the node, None for the whole graph, and what is wrong with it
Check = Callable[[Graph, Version], Found]


@dataclass(frozen=True)
class Finding:
    """What one rule says of one node.

    Attributes:
        level: error: TensorRT refuses the graph; warning: it takes it, but will be slow or coarse there.
        node: its name; "" for the whole graph.
        fix: what to do.
    """

    rule: str
    level: Level
    node: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.rule} {self.node or 'the graph'}: {self.text}"


@dataclass(frozen=True)
class Rule:
    """
    Attributes:
        since, until: versions it holds for, both included.
        source: where it comes from.
    """

    name: str
    level: Level
    fix: str
    source: str
    since: tuple[int, int]
    until: tuple[int, int]
    check: Check

    def holds(self, version: Version) -> bool:
        return self.since <= version.number <= self.until


RULES: dict[str, Rule] = {}


def rule(
    name: str, level: Level, *, fix: str, source: str, since: tuple[int, int] = (0, 0), until: tuple[int, int] = (99, 0)
) -> Callable[[Check], Check]:
    """Put a function into `RULES`."""

    def add(check: Check) -> Check:
        RULES[name] = Rule(name, level, fix, source, since, until, check)
        return check

    return add
