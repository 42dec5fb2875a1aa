"""How TensorRT comes by FP16 on a device: flags of its builder up to 10; from 11 on the graph itself must say its types.

One word asks for it on every version, `precision=fp16` of a provider, and what was done is said and recorded. FP8
(`precision=fp8`) is written into the graph on every version that has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ExportError
from toolchain.stage import file_sha256, write_bytes

if TYPE_CHECKING:
    import onnx

FIRST_STRONG = 11  # TensorRT's version from which on networks are strongly typed, and no flag chooses a precision
FIRST_FP8 = 10  # that reads FP8 Q/DQ: they begin with ONNX's opset 19
PRECISION = re.compile(r"(?<=[:,])precision=(\w+)")


@dataclass(frozen=True)
class Way:
    """How a graph is built.

    Attributes:
        graph: what goes to the device: the graph, or one with types of its own made from it.
        provider: with its options, as the build is asked for.
        typed_from: hash of the graph that FP16, or FP8, was written into, or that held it already; None where flags make it or
            nobody asked.
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
    """Of a TensorRT provider: fp16, bf16, int8, fp8, or graph, which is what none means."""
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
        ExportError, QuantizationError: FP16 or FP8 was asked for, this version needs it in the graph or has none, and it
            cannot be written there.
    """
    asked, strong = precision_of(provider), major(version) >= FIRST_STRONG
    own = PRECISION.sub("precision=graph", provider)
    if asked == "graph":
        return Way(graph, provider, None, False, "the graph's own types")
    fp8 = asked == "fp8"
    if fp8 and major(version) < FIRST_FP8:
        fix = "take precision=fp16, which runs the same Q/DQ in INT8"
        raise ExportError("this TensorRT reads no FP8 Q/DQ", got=f"{version}; they begin with {FIRST_FP8}", fix=fix)
    if (fp8 and is_fp8(model)) or (asked == "fp16" and is_half(model) and not is_fp8(model)):
        return Way(graph, own, file_sha256(graph), False, f"the graph's own types, which are {asked.upper()} already")
    if not fp8 and (asked != "fp16" or not strong):
        return Way(graph, provider, None, True, f"weakly typed, {_flags(asked, model)}", impossible=strong)
    typed = folder / f"{graph.stem}.{'fp8' if fp8 else 'typed'}.onnx"
    sha256 = file_sha256(graph)
    write_bytes(typed, _typed(graph, sha256, fp8))
    words = "FP8 and FP16" if fp8 else "FP16"
    return Way(typed, own, sha256, False, f"strongly typed, {words} written into the graph")


@lru_cache(maxsize=4)
def _typed(graph: Path, _sha256: str, fp8: bool) -> bytes:
    """Written once, though an engine is loaded several times; the hash tells one content of the file from another."""
    import onnx

    from toolchain.tensorrt.typed import to_typed

    return bytes(to_typed(onnx.load(str(graph)), fp8=fp8).SerializeToString(deterministic=True))


def is_fp8(model: onnx.ModelProto) -> bool:
    """Whether weights of a graph are FP8."""
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.FLOAT8E4M3FN for tensor in model.graph.initializer)


def is_half(model: onnx.ModelProto) -> bool:
    """Whether weights of a graph are FP16."""
    from onnx import TensorProto

    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def _flags(asked: str, model: onnx.ModelProto) -> str:
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    names = {"fp16": ["FP16"], "bf16": ["BF16"], "int8": ["FP16", "INT8"]}.get(asked, [asked.upper()])
    names += ["INT8"] if quantized and "INT8" not in names else []
    return f"flag{'s' if len(names) > 1 else ''} {' and '.join(names)}"
