"""Latency of one engine in turns: this process works only between `go` and its answer, and blocks on a read otherwise."""

import gc
import time

from . import engines
from .wire import AgentError


def memory_mb(field="VmRSS"):
    """Resident memory of this process in MB (1e6 bytes); None where the kernel does not tell."""
    try:
        with open("/proc/self/status") as stream:
            for line in stream:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


def bench(job):
    """Load, first inference, warm-up of at least `warmup_runs` runs and `warmup_s` seconds; the engine then waits for `go`."""
    engine, load_ms = engines.open_engine(job)
    array = engines.random_input(engine, job.request.get("imgsz"))
    first_ms = engines.first_run(engine, array)[1]
    runs, least, until = 0, job.need("warmup_runs", int), time.perf_counter() + job.need("warmup_s", (int, float))
    while runs < least or time.perf_counter() < until:
        engine.run(array)
        runs += 1
    job.memory["engine"], job.memory["array"] = engine, array
    return {
        "provider": engine.provider,
        "options": engine.options,
        "runtime_version": engine.version,
        "load_ms": load_ms,
        "first_inference_ms": first_ms,
        "warmup_runs": runs,
        "input_shape": list(array.shape),
        "rss_mb": memory_mb(),
    }


def go(job):
    """One turn of `runs` inferences.

    Returns:
        start_s, the start of each on this machine's monotonic clock (comparable between processes), and latency_ms.
    """
    if "engine" not in job.memory:
        raise AgentError("bad_request", "go before bench")
    run, array, clock = job.memory["engine"].run, job.memory["array"], time.perf_counter
    starts, ends = [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(job.need("runs", int)):
            starts.append(clock())
            run(array)
            ends.append(clock())
    finally:
        gc.enable()
    latencies = [1000.0 * (end - start) for start, end in zip(starts, ends)]  # noqa: B905 - Python 3.6
    return {"start_s": starts, "latency_ms": latencies, "rss_mb": memory_mb()}
