"""Graph edits that keep the function and suit a runtime better. Each proves itself by the caller's comparison of outputs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

LOGIT_LIMIT = 80.0  # exp(80) · 16 · 15 is still a float32; a distribution this peaked is one-hot anyway


def constants_as_initializers(model: onnx.ModelProto) -> int:
    """Turn Constant nodes, and Identity nodes that copy a constant, into initialisers. Changes the graph in place.

    The tracer shares equal tensors through Identity nodes; left there, a shared bias would not look like one.

    Returns:
        how many nodes went.
    """
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = onnx.TensorProto()
        if node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
            tensor.CopyFrom(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in known:
            tensor.CopyFrom(known[node.input[0]])
        else:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        known[tensor.name] = tensor
        graph.initializer.append(tensor)
    gone = len(graph.node) - len(kept)
    del graph.node[:]
    graph.node.extend(kept)
    return gone


def shorten_dfl(model: onnx.ModelProto) -> int:
    """Replace Reshape-Transpose-Softmax-Conv of the box distribution by Exp, one small matrix product and a division.

    The expectation of bin i under softmax is Σ i·exp(x_i) / Σ exp(x_i): both sums are rows of one (2, bins) matrix. ONNX
    Runtime's softmax over 16 values at a time costs 5-10 % of a YOLOv8n; this does not. Changes the graph in place.

    Returns:
        how many heads were rewritten; 0 when the pattern is not there.
    """
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    done = 0
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        chain = _dfl_chain(conv, producer)
        if chain is None or conv.input[1] not in constants or len(conv.input) > 2:
            continue
        reshape = chain[0]
        weight = numpy_helper.to_array(constants[conv.input[1]])
        shape = constants.get(reshape.input[1])
        if weight.shape[0] != 1 or weight.shape[2:] != (1, 1) or shape is None:
            continue
        batch, sides, bins, anchors = (int(v) for v in numpy_helper.to_array(shape))
        if bins != weight.shape[1]:
            continue
        _replace(graph, conv, chain, weight.reshape(bins), (batch, sides, bins, anchors))
        done += 1
    return done


def _dfl_chain(conv: onnx.NodeProto, producer: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """[Reshape, Transpose, Softmax] above the conv, when that is what is there."""
    chain: list[onnx.NodeProto] = []
    node = conv
    for wanted in ("Softmax", "Transpose", "Reshape"):
        above = producer.get(node.input[0])
        if above is None or above.op_type != wanted:
            return None
        chain.insert(0, above)
        node = above
    order = [list(a.ints) for a in chain[1].attribute if a.name == "perm"]
    axis = [a.i for a in chain[2].attribute if a.name == "axis"]
    return chain if order == [[0, 2, 1, 3]] and axis == [1] else None


def _replace(
    graph: onnx.GraphProto, conv: onnx.NodeProto, chain: list[onnx.NodeProto], weight: np.ndarray, shape: tuple[int, ...]
) -> None:
    name = conv.name or conv.output[0]
    consts = {
        "matrix": np.stack([weight, np.ones_like(weight)]).astype(np.float32),
        "low": np.float32(-LOGIT_LIMIT),
        "high": np.float32(LOGIT_LIMIT),
        "parts": np.array([1, 1], np.int64),
        "shape": np.array([shape[0], 1, shape[1], shape[3]], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), f"{name}/short/{key}") for key, value in consts.items())
    step = {key: f"{name}/short/{key}" for key in (*consts, "clip", "exp", "sums", "mean", "total", "side")}
    nodes = [
        helper.make_node("Clip", [chain[0].output[0], step["low"], step["high"]], [step["clip"]], step["clip"]),
        helper.make_node("Exp", [step["clip"]], [step["exp"]], step["exp"]),
        helper.make_node("MatMul", [step["matrix"], step["exp"]], [step["sums"]], step["sums"]),
        helper.make_node("Split", [step["sums"], step["parts"]], [step["mean"], step["total"]], f"{name}/short/split", axis=2),
        helper.make_node("Div", [step["mean"], step["total"]], [step["side"]], step["side"]),
        helper.make_node("Reshape", [step["side"], step["shape"]], list(conv.output), f"{name}/short/reshape"),
    ]
    unused = [tensor for tensor in graph.initializer if tensor.name == conv.input[1]]
    if sum(conv.input[1] in node.input for node in graph.node) == 1:
        graph.initializer.remove(unused[0])
    kept = [node for node in graph.node if node not in (chain[1], chain[2], conv)]
    at = kept.index(chain[0]) + 1
    del graph.node[:]
    graph.node.extend([*kept[:at], *nodes, *kept[at:]])
