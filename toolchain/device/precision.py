"""How TensorRT comes by FP16 on a device: flags of its builder up to 10; from 11 on the graph itself must say its types.

One word asks for it on every version, `precision=fp16` of a provider, and what was done is said and recorded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.stage import file_sha256, write_bytes

if TYPE_CHECKING:
    import onnx

FIRST_STRONG = 11  # TensorRT's version from which on networks are strongly typed, and no flag chooses a precision
PRECISION = re.compile(r"(?<=[:,])precision=(\w+)")


@dataclass(frozen=True)
class Way:
    """How a graph is built.

    Attributes:
        graph: what goes to the device: the graph, or one with types of its own made from it.
        provider: with its options, as the build is asked for.
        typed_from: hash of the graph that FP16 was written into, or that held it already; None where flags make it or nobody
            asked.
        weak: flags of the builder choose precisions.
        impossible: this version has no such flags.
        said: the same in words.
    """

    graph: Path
    provider: str
    typed_from: str | None
    weak: bool
    said: str
    impossible: bool = False


def precision_of(provider: str) -> str:
    """Of a TensorRT provider: fp16, bf16, int8, or graph, which is what none means."""
    found = PRECISION.search(provider)
    return found[1] if found else "graph"


def major(version: str) -> int:
    """10 of "10.3.0"."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def choose_way(graph: Path, model: onnx.ModelProto, provider: str, version: str, folder: Path) -> Way:
    """How that TensorRT is to build the graph.

    Args:
        model: the graph, without external weights.
        folder: where a typed graph is written.

    Raises:
        ExportError, QuantizationError: FP16 was asked for, this version needs it in the graph, and it cannot be written there.
    """
    asked, strong = precision_of(provider), major(version) >= FIRST_STRONG
    own = PRECISION.sub("precision=graph", provider)
    if asked == "graph":
        return Way(graph, provider, None, False, "the graph's own types")
    if asked == "fp16" and _is_half(model):
        return Way(graph, own, file_sha256(graph), False, "the graph's own types, which are FP16 already")
    if asked != "fp16" or not strong:
        return Way(graph, provider, None, True, f"weakly typed, {_flags(asked, model)}", impossible=strong)
    typed = folder / f"{graph.stem}.typed.onnx"
    sha256 = file_sha256(graph)
    write_bytes(typed, _typed(graph, sha256))
    return Way(typed, own, sha256, False, "strongly typed, FP16 written into the graph")


@lru_cache(maxsize=4)
def _typed(graph: Path, _sha256: str) -> bytes:
    """Written once, though an engine is loaded several times; the hash tells one content of the file from another."""
    import onnx

    from toolchain.tensorrt.typed import to_typed

    return bytes(to_typed(onnx.load(str(graph))).SerializeToString(deterministic=True))


def _is_half(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _flags(asked: str, model: onnx.ModelProto) -> str:
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    names = {"fp16": ["FP16"], "bf16": ["BF16"], "int8": ["FP16", "INT8"]}.get(asked, [asked.upper()])
    names += ["INT8"] if quantized and "INT8" not in names else []
    return f"flag{'s' if len(names) > 1 else ''} {' and '.join(names)}"
