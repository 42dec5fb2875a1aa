"""Times of a plan by NVIDIA's own program, to stand beside the agent's: all flags said, its JSON files read, nothing else."""

import os
import shutil
import tempfile

from .. import files
from ..wire import AgentError
from . import api, place, plans, trtexec

MOST_VALUES = 20000
MOST_TEXT = 400000


def times(job):
    """The request's plan, timed for `seconds`; `input_shape` where the plan takes several.

    Returns:
        what trtexec.latency gives; program; hashes of its files; layers_text, what it wrote of the layers.

    Raises:
        AgentError: foreign_plan, runtime_missing, or as of trtexec.latency.
    """
    trt = api.module()
    path = job.need("path", str)
    about = plans.open_plan(path, place.here(job.root))[1]
    folder = tempfile.mkdtemp(prefix=".trtexec-", dir=plans.folder(job.cache))
    try:
        shape, core = shape_of(about, job.request.get("input_shape")), about["made_of"]["flags"].get("dla")
        found = trtexec.latency(path, trt.__version__, folder, shape, job.need("seconds", int), core=core)
        found["files"] = {name: files.sha256(os.path.join(folder, name + ".json")) for name in trtexec.EXPORTS}
        found["layers_text"] = trtexec.text_of(os.path.join(folder, "layers.json"))[:MOST_TEXT]
        found["program"] = trtexec.find()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["compute_ms"] = found["compute_ms"][:MOST_VALUES]
    return found


def shape_of(about, asked):
    """Name and sides of the input, as (name, sides), where the plan leaves some of them free; else None."""
    free = [name for name, sides in sorted((about.get("inputs") or {}).items()) if any(side < 0 for side in sides)]
    if not free:
        return None
    if len(free) != 1 or not asked:
        raise AgentError("bad_request", "which shape? the plan leaves it free for %s" % ", ".join(free))
    return free[0], asked


def answer(job):
    """What a benchmark needs of `times`."""
    found = times(job)
    return {name: found[name] for name in ("program", "words", "compute_ms")}
