"""The load whose energy is measured: phases of rest and of back-to-back inference, with stamps. Sampling is another process."""

import array
import gc
import time

import numpy as np

from . import engines, files
from .memory import memory_mb
from .wire import AgentError

LONGEST_S = 7200.0
MOST = 1 << 22  # inferences that are kept; two stamps of 8 bytes each


def phases_of(job):
    """[(name, seconds, whether it loads)] of the request."""
    phases = job.need("phases", list)
    for phase in phases:
        if not (isinstance(phase, list) and len(phase) == 3 and isinstance(phase[0], str) and isinstance(phase[2], bool)):
            raise AgentError("bad_request", "a phase is [name, seconds, load], not %r" % (phase,))
        if isinstance(phase[1], bool) or not isinstance(phase[1], (int, float)) or not 0 < phase[1] <= LONGEST_S:
            raise AgentError("bad_request", "a phase lasts 0 to %g s, not %r" % (LONGEST_S, phase[1]))
    if not phases or len(phases) > 64:
        raise AgentError("bad_request", "1 to 64 phases, not %d" % len(phases))
    return phases


def load(run, data, until, stamps, period_s):
    """Inferences until one ends at or after `until`; its end is the phase's end, so that a phase holds whole inferences only.

    Args:
        period_s: time from start to start; 0: back to back.
    """
    clock = time.monotonic
    end = clock()
    due = max(end, stamps[-2] + period_s) if stamps else end  # one pace over phases that follow one another
    while end < until and len(stamps) < 2 * MOST:
        if period_s:
            time.sleep(max(0.0, due - clock()))
            due = max(due + period_s, clock() - period_s)
        start = clock()
        run(data)
        end = clock()
        stamps.append(start)
        stamps.append(end)
    return end


def energy(job):
    """Load the engine, try it once, then the phases one after the other.

    Returns:
        phases as they were ({name, load, start_s, end_s} on this machine's monotonic clock, which the sampler uses too, and
        start_unix), and a file of all inferences: (n, 2) float64, start and end.
    """
    plan, rate_hz = phases_of(job), job.need("rate_hz", (int, float)) if job.request.get("rate_hz") else 0
    engine, load_ms = engines.open_engine(job)
    data = engines.random_input(engine, job.request.get("imgsz"))
    first_ms = engines.first_run(engine, data)[1]
    stamps, done = array.array("d"), []
    path = files.new_output(job, ".npy")
    gc.collect()
    gc.disable()
    end = time.monotonic()
    try:
        for name, seconds, loads in plan:
            job.event("phase", phase=name, seconds=seconds)
            start, unix = end, time.time()
            if loads:
                end = load(engine.run, data, start + seconds, stamps, 1.0 / rate_hz if rate_hz else 0.0)
            else:
                time.sleep(max(0.0, start + seconds - time.monotonic()))
                end = time.monotonic()
            done.append({"name": name, "load": loads, "start_s": start, "end_s": end, "start_unix": unix})
    finally:
        gc.enable()
    with open(path, "wb") as stream:
        np.save(stream, np.frombuffer(stamps, dtype=np.float64).reshape(-1, 2))
    return {
        "phases": done,
        "inferences": len(stamps) // 2,
        "load_ms": load_ms,
        "first_inference_ms": first_ms,
        "provider": engine.provider,
        "options": engine.options,
        "runtime_version": engine.version,
        "rss_mb": memory_mb(),
        **files.publish(path),
    }
