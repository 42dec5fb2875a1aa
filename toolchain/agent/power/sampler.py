"""Power over time: readings of one source on an even grid, by a thread of an agent process that does nothing else.

The file is JSON lines, a reading a line: [t, value of each rail]. t is this machine's monotonic clock, half-way between before
and after the reading; a rail that could not be read is null.
"""

import json
import threading
import time

from .. import files
from ..wire import AgentError
from . import UnreadableError, open_source
from .refresh import refresh_s

PROBE_HZ = 100.0
LEAST_INTERVAL_S = 0.005
LONGEST_S = 7200.0
REMEMBER = 1000


def describe(reader):
    """What a reader reads, for the record."""
    return {
        "unit": reader.unit,
        "rails": reader.rails,
        "paths": reader.paths,
        "update_ms": reader.update_ms,
        "quantum": reader.quantum,
        "wrap_j": reader.wrap_j,
        "averages": reader.averages,
        "settings": reader.settings(),
    }


def sample(reader, interval_s, stop, keep, until):
    """Readings on the grid until `stop` is set or the clock reaches `until`; `keep(t, values)` takes each."""
    clock = time.monotonic
    due = clock()
    while not stop.is_set() and due < until:
        before = clock()
        values = reader.read()
        after = clock()
        keep((before + after) / 2.0, values)
        due += interval_s
        if due < after:  # too late for some: go on with the next that can still be met
            due += interval_s * int((after - due) / interval_s + 1)
        stop.wait(max(0.0, due - clock()))


def probe_one(root, source, seconds):
    """Whether a source can be read, or why not, and how often it gives a new value."""
    try:
        reader = open_source(root, source)
    except UnreadableError as error:
        return {"readable": False, "reason": error.reason, "detail": error.detail, "fix": error.fix}
    times, values = [], []

    def keep(t, value):
        times.append(t)
        values.append(value)

    interval_s = 1.0 / min(PROBE_HZ, float(source["max_hz"])) if source["kind"] == "vcgencmd_pmic" else 1.0 / PROBE_HZ
    sample(reader, interval_s, threading.Event(), keep, time.monotonic() + seconds)
    found, why = refresh_s(times, values)
    last = dict(zip(reader.rails, values[-1])) if values else {}  # noqa: B905 - Python 3.6
    return {
        "readable": True,
        "refresh_s": found,
        "refresh_unknown": why,
        "readings": len(values),
        "last": last,
        **describe(reader),
    }


def probe(job):
    """All the sources of a target, in its order."""
    sources, seconds = job.need("sources", list), job.need("seconds", (int, float))
    if not 0 <= seconds <= 60 or len(sources) > 16:
        raise AgentError("bad_request", "at most 16 sources and 60 seconds")
    return {"sources": [probe_one(job.root, source, seconds) for source in sources]}


class Sampler:
    """A thread that samples into a file."""

    def __init__(self, reader, path, interval_s, until):
        self.reader, self.path, self.interval_s, self.until = reader, path, interval_s, until
        self.readings, self.gaps, self.error = 0, 0, None
        self._first = [], []  # times and values of the first readings, to see the refresh by
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.daemon = True  # the process must be able to end when the host is gone
        self._thread.start()

    def _run(self):
        try:
            with open(self.path, "w") as stream:

                def keep(t, values):
                    self.readings += 1
                    self.gaps += None in values
                    if self.readings <= REMEMBER:
                        self._first[0].append(t)
                        self._first[1].append(values)
                    stream.write(json.dumps([round(t, 6), *values]) + "\n")

                sample(self.reader, self.interval_s, self._stop, keep, self.until)
        except Exception as error:  # noqa: BLE001 - the host hears of it when it asks for the end
            self.error = error

    def refresh(self):
        """Time between new values, and why it is not known."""
        return refresh_s(*self._first)

    def finish(self):
        """Stop, wait for the last reading."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


def start(job):
    """Begin to sample; returns at once. The process then samples until `power_stop`, `longest_s`, or its own end."""
    interval_s, longest_s = job.need("interval_s", (int, float)), job.need("longest_s", (int, float))
    if "sampler" in job.memory:
        raise AgentError("bad_request", "already sampling")
    if not (LEAST_INTERVAL_S <= interval_s <= 60 and 0 < longest_s <= LONGEST_S):
        raise AgentError("bad_request", "interval_s %r, longest_s %r" % (interval_s, longest_s))
    try:
        reader = open_source(job.root, job.need("source", dict))
    except UnreadableError as error:
        raise AgentError("sensor", "%s: %s" % (error.reason, error.detail)) from error
    path = files.new_output(job, ".jsonl")
    job.memory["sampler"] = Sampler(reader, path, interval_s, time.monotonic() + longest_s)
    return describe(reader)


def stop(job):
    """End sampling; the file can then be fetched."""
    if "sampler" not in job.memory:
        raise AgentError("bad_request", "not sampling")
    sampler = job.memory.pop("sampler")
    sampler.finish()
    found, why = sampler.refresh()
    return {
        "readings": sampler.readings,
        "gaps": sampler.gaps,
        "settings": sampler.reader.settings(),
        "refresh_s": found,
        "refresh_unknown": why,
        **files.publish(sampler.path),
    }
