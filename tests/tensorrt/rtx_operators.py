"""Which ONNX operators RTX's parser has an importer for: one node of each is tried, in a forked child, for some crash it.

Only "not supported" and "plugin not found" count as unknown; a complaint about the made-up inputs means an importer is there.
Prints a JSON list. `python -m tests.tensorrt.rtx_operators 24`
"""

from __future__ import annotations

import json
import os
import sys

from onnx import TensorProto, defs, helper

UNKNOWN = ("UNSUPPORTED_NODE:false", "Plugin not found")


def tried(builder: object, logger: object, operator: str, opset: int) -> str:
    """What the parser says of one node."""
    import tensorrt_rtx_bindings as trt

    count = max(1, defs.get_schema(operator, opset, "").min_input)
    inputs = [helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, [1, 4, 8, 8]) for index in range(count)]
    node = helper.make_node(operator, [value.name for value in inputs], ["y"], "n")
    graph = helper.make_graph([node], "net", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    network = builder.create_network(0)  # type: ignore[attr-defined]
    parser = trt.OnnxParser(network, logger)
    parser.parse(model.SerializeToString())
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "|".join(f"{str(error.code()).split('.')[-1]}:{error.desc()[:60]}" for error in errors) or "ok"


def known(opset: int) -> list[str]:
    """Names of operators with an importer."""
    import tensorrt_rtx_bindings as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    schemas = [schema for schema in defs.get_all_schemas_with_history() if not schema.domain and schema.since_version <= opset]
    found = []
    for name in sorted({schema.name for schema in schemas}):
        if defs.get_schema(name, opset, "").deprecated:
            continue
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.write(writer, tried(builder, logger, name, opset).encode()[:400])
            os._exit(0)
        os.close(writer)
        text = os.read(reader, 500).decode(errors="replace")
        os.close(reader)
        os.waitpid(child, 0)
        if not any(word in text for word in UNKNOWN):
            found.append(name)
    return found


if __name__ == "__main__":
    print(json.dumps(known(int(sys.argv[1]))))
