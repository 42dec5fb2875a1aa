"""Time of every node of one engine, as its runtime recorded it."""

import glob
import os

from . import engines, files, runtimes
from .wire import AgentError

MAX_NODES = 4096
MAX_RUNS = 200


def merge(runs):
    """Runs of the same nodes in the same order -> one row a node with its time in every run.

    Args:
        runs: list of (total ms, list of {"name", "op", "provider", "shape", "ms"}).
    """
    first = runs[0][1]
    if not 0 < len(first) <= MAX_NODES:
        raise AgentError("engine", "a profile of 1 to %d nodes is expected, this one has %d" % (MAX_NODES, len(first)))
    rows = [dict(node, ms=[]) for node in first]
    for _, nodes in runs:
        if [(node["name"], node["op"]) for node in nodes] != [(row["name"], row["op"]) for row in rows]:
            raise AgentError("engine", "the engine does not run the same nodes every time: no profile can be made")
        for row, node in zip(rows, nodes):  # noqa: B905 - Python 3.6
            row["ms"].append(node["ms"])
    return {"nodes": rows, "total_ms": [total for total, _ in runs]}


def profile(job):
    """`warmup_runs` and then `runs` inferences with the runtime's own profiler; its file never stays behind."""
    runtime, warmup_runs, runs = job.need("runtime", str), job.need("warmup_runs", int), job.need("runs", int)
    if not getattr(runtimes.find(runtime), "PROFILES", False):
        raise AgentError("engine", "%s does not tell the time of single layers" % runtime)
    if not (0 <= warmup_runs <= MAX_RUNS and 1 <= runs <= MAX_RUNS):
        raise AgentError("bad_request", "runs and warmup_runs must be at most %d" % MAX_RUNS)
    prefix = files.new_output(job, ".profile")
    try:
        engine = engines.open_engine(job, profile_to=prefix)[0]
        array = engines.random_input(engine, job.request.get("imgsz"))
        for _ in range(warmup_runs + runs):
            engine.run(array)
        recorded = engine.end_profile()
    finally:
        for path in glob.glob(glob.escape(prefix) + "*"):
            os.remove(path)
    if len(recorded) != warmup_runs + runs:
        raise AgentError("engine", "the runtime recorded %d of %d runs" % (len(recorded), warmup_runs + runs))
    answer = merge(recorded[warmup_runs:])
    answer.update(provider=engine.provider, runtime_version=engine.version, input_shape=list(array.shape))
    return answer
