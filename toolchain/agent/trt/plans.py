"""Plans on disk: plain plan bytes, with a JSON beside them that says what they were made from, and for what they are good.

A plan is code. One is loaded only where the file beside it holds its hash and this very TensorRT and GPU; no option loads
another.
"""

import hashlib
import json
import os
import tempfile

from .. import files
from ..wire import AgentError

FORMAT = 1
FOLDER = "engines"
HEADER, RTX_HEADER = b"ftrt", b"vtrt"
SAME = (
    "tensorrt",
    "compute",
    "multiprocessors",
    "memory_bytes",
    "cuda_runtime",
    "cuda_driver",
    "l4t",
    "board",
)  # where a plan is at home


def recipe(onnx_sha256, order, here):
    """Everything that goes into a plan; its hash is the key."""
    calibration = order.get("calibration") or {}
    flags = {name: value for name, value in order.items() if name not in ("calibration", "timing")}
    return {
        "onnx_sha256": onnx_sha256,
        "calibration_sha256": calibration.get("sha256"),
        "calibration_method": calibration.get("method"),
        "flags": flags,
        "here": here,
    }


def key_of(made_of):
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode("utf-8")).hexdigest()


def graph_sha256(path):
    """Hash of an ONNX file; external data lies beside it and counts too, where it is named as ONNX writers do."""
    digest = files.sha256(path)
    extra = path + ".data"
    return digest if not os.path.exists(extra) else hashlib.sha256((digest + files.sha256(extra)).encode("ascii")).hexdigest()


def folder(cache):
    path = os.path.join(cache, FOLDER)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def beside(path):
    """The JSON that belongs to a plan."""
    return os.path.splitext(path)[0] + ".json"


def write(path, data):
    """Replace a file in one step, for this user alone; nothing half is ever to be seen under its name."""
    handle, partial = tempfile.mkstemp(prefix=".part-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(partial, path)
    except BaseException:
        os.remove(partial)
        raise


def keep(cache, key, plan, made_of, more):
    """A plan and what belongs beside it; the plan comes first, so that a JSON never stands for one that is not there.

    Returns:
        path of the plan, and what its JSON says.
    """
    path = os.path.join(folder(cache), key + ".plan")
    about = {
        "format": FORMAT,
        "key": key,
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "size": len(plan),
        "plan_version": header_version(plan),
        "made_of": made_of,
    }
    about.update(more)
    write(path, plan)
    write(beside(path), json.dumps(about, sort_keys=True, indent=1).encode("utf-8"))
    return path, about


def find(cache, key):
    """Path of a plan that was kept and is still whole, and what its JSON says; None where there is none."""
    path = os.path.join(folder(cache), key + ".plan")
    try:
        about = read_about(path)
        if about["key"] != key or files.sha256(path) != about["plan_sha256"]:
            return None
    except (AgentError, OSError):
        return None
    for one in (path, beside(path)):
        os.utime(one, None)  # not swept while it is in use
    return path, about


def read_about(path, about_path=None):
    """The JSON of a plan, which lies beside it unless said otherwise.

    Raises:
        AgentError: there is none, or it is not one.
    """
    about_path = about_path or beside(path)
    try:
        with open(about_path) as stream:
            about = json.load(stream)
        if (
            about["format"] != FORMAT
            or not isinstance(about["plan_sha256"], str)
            or not isinstance(about["made_of"]["here"], dict)
        ):
            raise ValueError("not of format %d" % FORMAT)
    except FileNotFoundError:
        raise AgentError(
            "foreign_plan", "%s: no %s beside it, so nobody says where it was built" % (path, os.path.basename(about_path))
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise AgentError("foreign_plan", "%s: %s" % (about_path, error)) from error
    return about


def header_version(plan):
    """ "10.3.0.30" from a plan's first bytes; None where they do not say, as is unconfirmed for 8.x.

    Source: NVIDIA/TensorRT, the serialized engine's header from 10.0 on.
    """
    if len(plan) < 28 or plan[:4] != HEADER:
        return None
    return ".".join(str(byte) for byte in bytearray(plan[24:28]))


def open_plan(path, here, about_path=None):
    """A plan's bytes and what its JSON says, if it may be loaded here.

    Args:
        here: what `place.here` says of this machine.
        about_path: of that JSON; default: beside the plan.

    Raises:
        AgentError: foreign_plan, with the reason; nothing of it was given to TensorRT.
    """
    about = read_about(path, about_path)
    with open(path, "rb") as stream:
        plan = stream.read()
    if hashlib.sha256(plan).hexdigest() != about["plan_sha256"]:
        raise AgentError("foreign_plan", "%s: %s" % (path, changed(plan)))
    there = about["made_of"]["here"]
    other = ["%s %s, here %s" % (name, there.get(name), here.get(name)) for name in SAME if there.get(name) != here.get(name)]
    if other:
        raise AgentError("foreign_plan", "%s was built elsewhere: %s" % (path, "; ".join(other)))
    return plan, about


def changed(plan):
    """What a plan that is not the one that was built looks like."""
    if plan[:4] == RTX_HEADER:
        return "a plan of TensorRT-RTX, which TensorRT does not load"
    if plan[4:5] == b"{":
        return "an exporter has put text before the plan; build it here from its ONNX"
    return "the plan is not the one that was built: its hash is another"
