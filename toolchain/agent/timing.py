"""Latency of one engine in passes: this process works only between `go` and its answer, and blocks on a read otherwise."""

import collections
import gc
import math
import time

import numpy as np

from . import engines
from .memory import gpu_mb, memory_mb
from .wire import AgentError

MAX_RUNS = 200000  # of one pass: more samples would not fit into one answer
SETTLE_S, SETTLE_RUNS = 5.0, 25  # what is looked back on to see whether the latency stands still
STRETCHES = 5
STEADY = 0.01
TELL_EVERY_S = 2.0


def change(latencies):
    """Relative change from the first to the last fifth, along a line through the fifths' medians."""
    medians = [float(np.median(part)) for part in np.array_split(np.asarray(latencies), STRETCHES)]
    slope = np.polyfit(range(STRETCHES), medians, 1)[0]
    return float(slope * (STRETCHES - 1) / np.median(medians))


def warm_up(run, runs, seconds, cap_s, tell=lambda done: None, clock=time.perf_counter):
    """At least `runs` runs and `seconds`; then until the latency stands still, or `cap_s` after the start (0: not waited for).

    Returns:
        runs, seconds, stopped ("asked" | "steady" | "cap"), change over the last SETTLE_S (None where it was not looked at).
    """
    begin = told = judged = clock()
    recent, done, found = collections.deque(), 0, None
    while True:
        start = clock()
        run()
        now = clock()
        done += 1
        recent.append((now, now - start))
        while len(recent) > SETTLE_RUNS and recent[0][0] < now - SETTLE_S:
            recent.popleft()
        if now - told > TELL_EVERY_S:
            told = now
            tell(done)
        if done < runs or now - begin < seconds:
            continue
        if not cap_s:
            return done, now - begin, "asked", None
        if len(recent) < SETTLE_RUNS or now - judged < SETTLE_S / STRETCHES:
            if now - begin < cap_s:
                continue
        judged = now
        found = change([latency for _, latency in recent]) if len(recent) >= SETTLE_RUNS else None
        if found is not None and abs(found) <= STEADY:
            return done, now - begin, "steady", found
        if now - begin >= cap_s:
            return done, now - begin, "cap", found


def option(job, name, usual):
    """A number of the request, or `usual`."""
    return job.need(name, (int, float)) if name in job.request else usual


def bench(job):
    """Load, first inference, warm-up; the engine then waits for `go`."""
    engine, load_ms = engines.open_engine(job)
    array = engines.random_input(engine, job.request.get("imgsz"))
    first_ms = engines.first_run(engine, array)[1]
    least, least_s, cap_s = job.need("warmup_runs", int), job.need("warmup_s", (int, float)), option(job, "settle_cap_s", 0)

    def tell(done):
        job.event("progress", done=min(done, least), total=least)

    runs, seconds, stopped, found = warm_up(lambda: engine.run(array), least, least_s, cap_s, tell)
    job.memory["engine"], job.memory["array"] = engine, array
    on_gpu_mb, gpu_reason = gpu_mb(job.root)
    return {
        "provider": engine.provider,
        "options": engine.options,
        "runtime_version": engine.version,
        "load_ms": load_ms,
        "first_inference_ms": first_ms,
        "warmup": {"runs": runs, "seconds": seconds, "stopped": stopped, "change": found},
        "input_shape": list(array.shape),
        "rss_mb": memory_mb(),
        "gpu_mb": on_gpu_mb,
        "gpu_reason": gpu_reason,
    }


def loaded(job):
    """The engine and its input that `bench` left waiting."""
    if "engine" not in job.memory:
        raise AgentError("bad_request", "nothing is loaded: bench comes first")
    return job.memory["engine"], job.memory["array"]


def one_pass(job, work):
    """Call `work` `runs` times or more, for `seconds` or longer, at most for `cap_s`; before that, `lead_runs` that do not count.

    Args:
        work: takes the clock; returns nothing, or marks of the clock to keep.

    Returns:
        starts, ends, marks, stopped ("enough" | "cap" | "full")
    """
    runs, seconds, cap_s = job.need("runs", int), option(job, "seconds", 0), option(job, "cap_s", 86400)
    clock, starts, ends, marks = time.perf_counter, [], [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(option(job, "lead_runs", 0)):  # after the collection, which empties caches
            work(clock)
        begin = clock()
        while True:
            start = clock()
            mark = work(clock)
            end = clock()
            starts.append(start)
            ends.append(end)
            marks.append(mark)
            if len(ends) >= runs and end - begin >= seconds:
                return starts, ends, marks, "enough"
            if end - begin >= cap_s:
                return starts, ends, marks, "cap"
            if len(ends) >= MAX_RUNS:
                return starts, ends, marks, "full"
    finally:
        gc.enable()


def milliseconds(starts, ends):
    return [round(1000.0 * (end - start), 6) for start, end in zip(starts, ends)]  # noqa: B905 - Python 3.6


def go(job):
    """One pass of inferences alone.

    Returns:
        start_s, the start of each on this machine's monotonic clock (comparable between processes), and latency_ms; device_ms,
        the part of it on the accelerator alone, where the runtime knows.
    """
    engine, array = loaded(job)
    run = engine.run

    def infer(_):
        run(array)

    def infer_and_ask(_):
        run(array)
        return engine.device_ms

    asks = getattr(engine, "device_ms", None) is not None  # it has run before
    starts, ends, marks, stopped = one_pass(job, infer_and_ask if asks else infer)
    answer = samples(starts, ends, stopped)
    if asks:
        answer["device_ms"] = [round(ms, 6) for ms in marks]
    return answer


def samples(starts, ends, stopped):
    return {
        "start_s": [round(start, 7) for start in starts],
        "latency_ms": milliseconds(starts, ends),
        "stopped": stopped,
        "rss_mb": memory_mb(),
    }


def paced(job):
    """One pass of inferences at a rate: in between this process sleeps, as it does while it waits for a camera.

    Frames are due at whole periods. One that could only begin after the next was due is skipped, as a camera's old picture is.

    Returns:
        what `go` returns, and due_s: when each frame was due, on the same clock.
    """
    engine, array = loaded(job)
    run, period_s = engine.run, 1.0 / job.need("rate_hz", (int, float))
    begin, number = time.perf_counter(), [-1]

    def frame(clock):
        now = clock()
        number[0] = max(number[0] + 1, math.ceil((now - begin) / period_s))
        due = begin + number[0] * period_s
        if due > now:
            time.sleep(due - now)
        start = clock()
        run(array)
        return due, start

    _, ends, marks, stopped = one_pass(job, frame)
    answer = samples([start for _, start in marks], ends, stopped)
    answer["due_s"] = [round(due, 7) for due, _ in marks]
    return answer
