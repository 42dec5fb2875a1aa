"""In what precision an engine runs: a provider asked for one, and the one that graph and provider make together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolchain.device.precision import PRECISION, is_fp8, is_half, precision_of
from toolchain.device.settings import PROVIDERS, On
from toolchain.errors import UsageError
from toolchain.export import openvino

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
OWN = {"tensorrt": "graph", "ncnn": "fp32"}  # the word of runtimes whose provider takes one, for what the graph itself says


def in_precision(on: On, precision: str) -> On:
    """`on` with the provider that runs an engine so. INT8 is in the graph, so its provider stays.

    Raises:
        UsageError: the runtime has no such engines, or the provider asks for another precision.
    """
    if precision not in PRECISIONS:
        raise UsageError("no precision of an engine", got=precision, fix=", ".join(PRECISIONS))
    if precision == "int8":
        return on
    if on.runtime not in OWN:
        if precision == "fp32":
            return on
        fix = "TensorRT and ncnn have them: --runtime tensorrt; or --precision fp32 or int8"
        raise UsageError(f"{on.runtime} has no {precision.upper()} engines here", got=f"provider {on.provider}", fix=fix)
    wanted = OWN[on.runtime] if precision == "fp32" else precision
    said = PRECISION.search(on.provider)
    if said and said[1] != wanted and on.provider != PROVIDERS[on.runtime]:
        raise UsageError(
            "the provider asks for another precision", got=f"--provider {on.provider}, --precision {precision}",
            fix="leave one of them out",
        )  # fmt: skip
    return replace(on, provider=_with(on.provider, wanted))


def precision_told(engine: Path, on: On) -> str:
    """What the engine computes in, for the record: by its graph's own types and the provider's word."""
    asked = precision_of(on.provider)
    if engine.suffix in (openvino.XML, openvino.SUFFIX):
        return "int8" if b"FakeQuantize" in engine.read_bytes() else "fp32"
    quantized, half, fp8 = _types(engine)
    if fp8 or asked == "fp8":
        return "fp8"
    if quantized or asked == "int8":
        return "int8"
    return asked if asked in ("fp16", "bf16") else "fp16" if half else "fp32"


def _with(provider: str, precision: str) -> str:
    if PRECISION.search(provider):
        return PRECISION.sub(f"precision={precision}", provider)
    return f"{provider}{',' if ':' in provider else ':'}precision={precision}"


def _types(graph: Path) -> tuple[bool, bool, bool]:
    """Whether a graph is quantized, holds FP16 weights, FP8 ones."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from toolchain.errors import ModelError
    from toolchain.export.unquantize import is_quantized

    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError as error:
        raise ModelError("the file is not an ONNX graph", got=str(graph), fix="`toolchain export` makes one") from error
    return is_quantized(model.graph), is_half(model), is_fp8(model)
