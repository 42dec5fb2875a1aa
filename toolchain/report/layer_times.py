"""Profiles of two engines, node by node, as one table of the network's own layers.

A runtime renames, fuses and adds nodes. ONNX Runtime keeps the ONNX node a kernel came from at the start of its name
("/model.4/cv1/conv/Conv_output_0_nchwc", "/model.4/cv1/act/Mul/QuickGeluFusion/"), which is the module's path; what it adds
itself ("ReorderInput_token_17") has no path.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from toolchain.report.diagnose_latency import LayerTime, why_not_faster

BETWEEN = "between layers"  # what the runtime put there: reorders, casts, copies
TAIL = "decoding"  # of the head: everything after its last convolutions
KERNEL = re.compile(r"^(QLinear|Nhwc)|(?<=Reorder)(Input|Output)$")
SAME_OP = {"Upsample": "Resize"}
REPEAT = re.compile(r"_\d+$")  # of a module called more than once, and of an operation with others of its kind


class Node(Protocol):
    """What is needed of a profile's node; see device.profile.NodeTime."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def min_ms(self) -> float: ...
    @property
    def shape(self) -> tuple[int, ...] | None: ...


class Place(NamedTuple):
    """A row of the table; `op` is None where the row is a layer, whose nodes are all one."""

    layer: str
    op: str | None


def segments(name: str) -> list[str]:
    """Module path and operation of a node: "/model.22/cv2.0/cv2.0.1/conv/Conv" -> model.22, cv2.0.1, conv, Conv."""
    found: list[str] = []
    for part in name.strip("/").split("/"):
        if found and part.startswith(f"{found[-1]}."):  # a child of a list repeats the list's name
            found.pop()
        found.append(part)
    return found


def operation(node: Node) -> str:
    """ONNX's name for what a kernel does, the same for the float and the INT8 kernel: QLinearConcat -> Concat."""
    op = KERNEL.sub("", node.op)
    return SAME_OP.get(op, op)


def place(node: Node, layers: Mapping[str, Any], head: str | None) -> Place:
    """The row a node belongs to: the longest layer its path begins with, or its module and operation."""
    parts = segments(node.name)
    path = ".".join(parts)
    inside = [layer for layer in layers if path == layer or path.startswith(f"{layer}.")]
    if inside:
        return Place(max(inside, key=len), None)
    if not node.name.startswith("/"):
        return Place(BETWEEN, operation(node))
    if head is not None and parts[0] == head:
        return Place(f"{head} {TAIL}", None)
    owner = [REPEAT.sub("", part) for part in parts if part == parts[0] or not part[:1].isupper()]
    return Place(".".join(owner), operation(node))


def layer_times(
    dense: Sequence[Node],
    pruned: Sequence[Node],
    layers: Sequence[Mapping[str, Any]],
    align: int,
    imgsz: int | None = None,
) -> list[LayerTime]:
    """One row a layer, with everything that runs under its path; rows of what belongs to no layer after that.

    Args:
        dense, pruned: profiles of the two engines; fastest runs are added up, which other work on the machine moves least.
        layers: name, dense and kept (channels) of every convolution, as in the summary; `now`: its name in the pruned network
            where that may be another.
        align: what the runtime wants a width to be a multiple of.
        imgsz: side of the picture, pixels; gives each layer its stride.

    Returns:
        rows in the order of `layers`. A layer that either runtime has merged into something without its name is left out:
        its time is not known, which is not 0. One that is gone takes no time.
    """
    known = {str(layer["name"]).removesuffix(".conv"): layer for layer in layers}
    head = _head(known)
    names = _names_now(known)
    before = _by_place(dense, known, head)
    after = _by_place(pruned, {now: was for now, was in names.items() if was in known}, head)
    after = {Place(names.get(place.layer, place.layer), place.op): nodes for place, nodes in after.items()}
    rows = []
    for name, layer in known.items():
        both = before.get(Place(name, None)), [] if not layer["kept"] else after.get(Place(name, None))
        if both[0] is None or both[1] is None:
            continue
        conv = max(both[0], key=lambda node: node.min_ms)
        times_ms, stride = (_sum(both[0]), _sum(both[1])), _stride(conv, imgsz)
        rows.append(
            LayerTime(name, operation(conv), *times_ms, layer["dense"], layer["kept"], layer["kept"] % align == 0, stride)
        )
    for where in [where for where in dict.fromkeys([*before, *after]) if where.layer not in known]:
        here = before.get(where, []), after.get(where, [])
        rows.append(LayerTime(where.layer, where.op or _slowest_op(here), _sum(here[0]), _sum(here[1])))
    return rows


def summary_rows(times: Sequence[LayerTime]) -> list[dict[str, Any]]:
    """Rows as `summary.json` holds them; `why` a layer is not faster, None if it is."""
    return [
        {
            "layer": row.layer, "op": row.op, "dense_ms": row.dense_ms, "pruned_ms": row.pruned_ms,
            "dense": row.dense_channels, "kept": row.kept_channels, "why": why_not_faster(row),
        }
        for row in times
    ]  # fmt: skip


def _head(known: Mapping[str, Any]) -> str | None:
    """model.N with the highest N; None for a network that is not a list of modules."""
    found = [match for name in known if (match := re.match(r"model\.(\d+)\.", name))]
    return max(found, key=lambda match: int(match[1]))[0].rstrip(".") if found else None


def _names_now(known: Mapping[str, Any]) -> dict[str, str]:
    """Layer, and the module around it, in the pruned network -> in the dense one."""
    now = {str(layer.get("now", name)).removesuffix(".conv"): name for name, layer in known.items() if layer["kept"]}
    return {**{new.rpartition(".")[0]: old.rpartition(".")[0] for new, old in now.items()}, **now}


def _by_place(nodes: Sequence[Node], known: Mapping[str, Any], head: str | None) -> dict[Place, list[Node]]:
    rows: dict[Place, list[Node]] = defaultdict(list)
    for node in nodes:
        rows[place(node, known, head)].append(node)
    return dict(rows)


def _sum(nodes: Sequence[Node]) -> float:
    return sum(node.min_ms for node in nodes)


def _slowest_op(nodes: tuple[Sequence[Node], Sequence[Node]]) -> str:
    """The operation a mixed row spends most time on; of the pruned engine, which is the one to explain."""
    times: dict[str, float] = defaultdict(float)
    for node in nodes[1] or nodes[0]:
        times[operation(node)] += node.min_ms
    return max(times, key=lambda op: times[op])


def _stride(node: Node, imgsz: int | None) -> int | None:
    """Picture pixels per map pixel; None where the shape is not known or not a square map's."""
    if imgsz is None or node.shape is None or len(node.shape) != 4:
        return None
    _, first, second, third = node.shape  # channels first, or last in INT8 kernels
    return imgsz // second if second and second in (first, third) else None
