"""What an engine says of its layers, and what trtexec's files say: JSON that differs by version, read without trust.

`Bindings` is a list of names up to 10, `I/O Tensors` one of objects in 11; a tensor's format is one text up to 10 and may be
split in 11 (that shape is from documentation alone). A layer of an engine that was built without details is a bare name.
"""

import json

PRECISIONS = ("int8", "fp8", "fp16", "bf16", "fp32", "half", "float")
CALLED = {"half": "fp16", "float": "fp32"}


def _load(text):
    def refuse(name):
        raise ValueError("%s is not JSON" % name)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError("not JSON: %s (TensorRT escapes no quotes in names and writes nan as it is)" % error) from error


def read(text):
    """Inspector's JSON -> rows {"name", "type", "precision", "shape", "format", "device"}; "?" or None where it does not tell.

    Raises:
        ValueError: it is not what any version writes.
    """
    data = _load(text)
    if not isinstance(data, dict) or not isinstance(data.get("Layers"), list):
        raise ValueError("no list of Layers")
    return [_row(layer) for layer in data["Layers"]]


def _row(layer):
    if isinstance(layer, str):
        layer = {"Name": layer}
    if not isinstance(layer, dict) or not isinstance(layer.get("Name"), str):
        raise ValueError("a layer without a name")
    outputs = layer.get("Outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict) else {}
    shape = first.get("Dimensions")
    text = " ".join(str(value) for key, value in sorted(first.items()) if "ormat" in key or "ata" in key)
    low = text.lower()
    found = next((name for name in PRECISIONS if name in low), None)
    kind = str(layer.get("LayerType", "?"))
    return {
        "name": layer["Name"],
        "type": kind,
        "precision": CALLED.get(found, found) or "?",
        "shape": shape if isinstance(shape, list) and all(isinstance(side, int) and side >= 0 for side in shape) else None,
        "format": text or None,
        "device": "dla" if "dla" in kind.lower() or "foreignnode" in layer["Name"].lower() else "gpu",
    }


def summary(rows):
    """Counts of layers by precision and device, and of those that only turn one format into another."""
    count = {"layers": len(rows), "reformat": sum("reformat" in row["type"].lower() for row in rows)}
    for row in rows:
        for key in (row["precision"], "on " + row["device"]):
            count[key] = count.get(key, 0) + 1
    return count


def read_times(text):
    """trtexec --exportTimes -> list of GPU compute times, ms.

    Raises:
        ValueError: not such a file, or no inference in it.
    """
    rows = _load(text)
    try:
        times = [float(row["computeMs"]) for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError("not times of trtexec: %r" % error) from error
    if not times or not all(0 < ms < 1e7 for ms in times):
        raise ValueError("no inference, or times that cannot be, among %d" % len(times))
    return times


def read_profile(text):
    """trtexec --exportProfile -> number of passes, and rows {"name", "mean_ms", "median_ms" or None}.

    Raises:
        ValueError: not such a file.
    """
    rows = _load(text)
    try:
        count = int(rows[0]["count"])
        found = [{"name": str(r["name"]), "mean_ms": float(r["averageMs"]), "median_ms": r.get("medianMs")} for r in rows[1:]]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("not a profile of trtexec: %r" % error) from error
    if count < 1 or not found:
        raise ValueError("no pass or no layer in the profile")
    return count, found
