"""Steps of `toolchain selftest` that no other operation does: what this TensorRT is, what it says of a graph, what comes out
of it.

One request a step, each in a process of the host's choosing, so that a crash costs one step.
"""

import os
import shutil
import subprocess
import tempfile

import numpy as np

from .. import engines, runtimes
from ..wire import AgentError
from . import api, gpu, ladder, layers, measure, place, plans, trtexec

MOST_VALUES, MOST_TEXT = measure.MOST_VALUES, measure.MOST_TEXT


def step(job):
    """Do one of STEPS and return what was found."""
    name = job.need("step", str)
    if name not in STEPS:
        raise AgentError("bad_request", "unknown step %r; this agent has %s" % (name, ", ".join(sorted(STEPS))))
    return STEPS[name](job)


def cuda(job):
    """Versions, memory, a copy there and back, a captured graph."""
    return gpu.exercise()


def versions(job):
    """What a plan depends on here, free memory, DLA cores."""
    trt = api.module()
    return {
        "here": place.here(job.root),
        "free": place.free_bytes(job.root),
        "dla_cores": api.dla_cores(trt, api.new_logger(trt)),
    }


def surface(job):
    """Names of every class of the binding, with the first line of what it says of each member."""
    trt = api.module()
    found = {}
    for name in dir(trt):
        owner = getattr(trt, name)
        if isinstance(owner, type) and not name.startswith("_"):
            found[name] = {member: first_line(owner, member) for member in dir(owner) if not member.startswith("__")}
    return {"version": trt.__version__, "classes": found}


def first_line(owner, member):
    lines = (getattr(getattr(owner, member, None), "__doc__", None) or "").strip().splitlines()
    return lines[0][:200] if lines else ""


def trtexec_help(job):
    """Where trtexec is, and all it says of its flags."""
    program = trtexec.find()
    if program is None:
        raise AgentError("runtime_missing", "no trtexec on this device")
    shown = subprocess.check_output([program, "--help"], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=60)
    return {"program": program, "help": shown.decode("utf-8", "replace")[:MOST_TEXT]}


def verdict(job):
    """What the parser makes of a graph: {"layers"}, or {"refused": kind, "text"}."""
    try:
        return ladder.parse(job.need("path", str), job.cache)
    except AgentError as error:
        if error.kind not in ("parse", "unsupported_op"):
            raise
        return {"refused": error.kind, "text": str(error)[-1000:]}


def outputs(job):
    """First output for seeded pixels, as plain numbers; of a second run too, which is the first launch of a graph."""
    engine, load_ms = engines.open_engine(job)
    array = engines.random_input(engine, job.request.get("imgsz"))
    first = engine.run(array)[0].copy()
    second = engine.run(array)[0]
    if first.size > MOST_VALUES:
        raise AgentError("bad_request", "%d values are too many for an answer" % first.size)
    values = [np.asarray(one, dtype=np.float64).ravel() for one in (first, second)]
    if not all(np.isfinite(one).all() for one in values):
        raise AgentError("engine", "the outputs hold NaN or infinite values")
    about = {"load_ms": load_ms, "options": engine.options, "shape": list(first.shape)}
    return dict(about, first=[round(float(x), 7) for x in values[0]], second=[round(float(x), 7) for x in values[1]])


def inspect(job):
    """Layers of a plan as the inspector gives them, and the first bytes of the plan."""
    path = job.need("path", str)
    engine = engines.open_engine(job)[0]
    text = engine.inspector_json()
    with open(path, "rb") as stream:
        header = stream.read(64)
    try:
        summary = layers.summary(layers.read(text))
    except ValueError as error:
        summary = {"unreadable": str(error)}
    return {
        "inspector": text[:MOST_TEXT],
        "summary": summary,
        "header_hex": header.hex(),
        "header_version": plans.header_version(header),
    }


def trtexec_build(job):
    """A plan by trtexec, timed and thrown away: whether it builds, and how large it is."""
    trt = api.module()
    folder = tempfile.mkdtemp(prefix=".trtexec-", dir=plans.folder(job.cache))
    plan = os.path.join(folder, "plan")
    order = ladder.complete(job.need("order", dict))
    order["limits"] = ladder.rungs(order, place.free_bytes(job.root)["memory"])[0]
    order["quantized"] = bool(job.request.get("quantized"))
    try:
        words = trtexec.build_words(trt.__version__, job.need("path", str), plan, os.path.join(folder, "timing"), order)
        log = trtexec.run(words, [plan], 3600)
        return {"words": words, "size": os.path.getsize(plan), "log": log}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def runtimes_here(job):
    """Version of every runtime that is installed, or why there is none."""
    found = {}
    for name in runtimes.names():
        try:
            found[name] = {"version": runtimes.find(name).version()}
        except Exception as error:  # noqa: BLE001 - the reason is the answer
            found[name] = {"missing": "%s: %s" % (type(error).__name__, error)}
    return found


STEPS = {
    "runtimes": runtimes_here,
    "cuda": cuda,
    "versions": versions,
    "surface": surface,
    "trtexec_help": trtexec_help,
    "verdict": verdict,
    "outputs": outputs,
    "inspect": inspect,
    "trtexec_latency": measure.times,
    "trtexec_build": trtexec_build,
}
