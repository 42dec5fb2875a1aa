"""Build a plan in processes of their own, each rung with less memory than the one before.

On a Jetson GPU and CPU share their memory, and the kernel's killer leaves no exception behind: what was killed is tried again
lower. The numbers of the rungs are starting points that nobody has measured on a board.
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from .. import files, smoke
from ..wire import AgentError
from . import calibration, child, gpu, place, plans

MIB, GIB = 1 << 20, 1 << 30
HEARTBEAT_S = 5.0  # a build that reports nothing, as on 8.x, still shows that it lives
LIMIT_S = 7000.0  # of one rung
ORDER = {  # what may be asked for, with its defaults
    "precision": "graph",  # what the graph itself says; fp16, bf16, int8 are flags of TensorRT up to 10
    "imgsz": None,
    "shapes": None,
    "dla": None,
    "gpu_fallback": True,
    "version_compatible": False,
    "hardware_compatible": None,
    "workspace_mib": None,
    "calibration": None,
    "typed_from": None,  # hash of the graph that the host wrote FP16 into; only for the record
}
WORK = ".build-"  # and the process that works there
ADVICE = "end the desktop, add swap, or take a smaller input or network"


def complete(order):
    """The order with its defaults; AgentError where it asks for what is not known."""
    unknown = sorted(set(order) - set(ORDER))
    if unknown:
        raise AgentError("bad_request", "unknown in an order to build: %s" % ", ".join(unknown))
    whole = dict(ORDER, **order)
    if whole["precision"] == "fp8":
        raise AgentError("bad_request", "FP8 is for graphs with FP8 Q/DQ in them (precision graph): toolchain typed --fp8")
    if whole["precision"] not in ("graph", "fp16", "bf16", "int8"):
        raise AgentError("bad_request", "precision %r: graph, fp16, bf16 or int8" % whole["precision"])
    if whole["precision"] != "int8" and whole["calibration"]:
        raise AgentError("bad_request", "a calibration is for precision int8")
    calibration.check(whole["calibration"])
    return whole


def rungs(order, available):
    """Limits of every try, most memory first.

    Args:
        available: bytes of memory that are free; None where the system does not tell.
    """
    room = available or 4 * GIB
    asked = order.get("workspace_mib")
    first = asked * MIB if asked else min(GIB, room // 4)
    dla = 256 * MIB if order.get("dla") is not None else None
    lower = [size for size in (256 * MIB, 64 * MIB, 64 * MIB, 64 * MIB) if size <= first] if not asked else []
    found = [{"workspace": first}]
    for rank, size in enumerate(lower, 1):
        limits = {"workspace": size, "tactic_dram": int(0.6 * room), "dla_dram": dla}
        if rank >= 2:
            limits["own_tactics"] = True
        if rank >= 3:
            limits["level"] = 2
        if rank >= 4:
            limits["small_batch"] = True
        found.append(limits)
    return found


def convert(path, order, cache, tell=lambda event: None, root="/", limit_s=LIMIT_S, at_end=None):
    """The plan for an ONNX graph: the one that was kept, or a new one.

    Args:
        order: some of ORDER's keys.
        cache: the agent's folder.
        tell: called with what happens, in JSON's types.
        at_end: takes a function that ends the build when this process ends.

    Returns:
        path of the plan, and what belongs to it: what its JSON says, and `reused`.

    Raises:
        AgentError: parse, unsupported_op, engine_build, out_of_memory, no_cuda, old_runtime, disk_full.
    """
    order = complete(order)
    here = place.here(root)
    made_of = plans.recipe(plans.graph_sha256(path), order, here)
    key = plans.key_of(made_of)
    found = plans.find(cache, key)
    if found is not None:
        return found[0], dict(found[1], reused=True)
    sweep(cache)
    room(cache, path)
    free = place.free_bytes(root)
    build = Build(path, order, cache, key, tell, limit_s)
    if at_end is not None:
        at_end(build.end)
    timing, cuda = Timing(cache, here), gpu.open_cuda().name
    began, tried = time.monotonic(), []
    for number, limits in enumerate(rungs(order, free["memory"])):
        tell({"event": "rung", "number": number, "limits": limits, "free": free})
        try:
            plan, timing_data, known = build.attempt(limits, timing)
        except AgentError as error:
            tried.append({"limits": limits, "kind": error.kind, "text": str(error)[-500:]})
            if error.kind not in ("out_of_memory", "crash"):
                raise
            if [one["kind"] for one in tried].count("crash") > 1:  # less memory does not mend it
                break
            continue
        more = dict(known, cuda=cuda, rung=number, limits=limits, tried=tried, free=free, timing_before=timing.sha256)
        more.update(timing_after=timing.save(timing_data), total_s=round(time.monotonic() - began, 3), built_unix=time.time())
        kept, about = plans.keep(cache, key, plan, made_of, more)
        return kept, dict(about, reused=False)
    text = "%d tries, each with less memory; the last: %s" % (len(tried), tried[-1]["text"])
    kind = tried[-1]["kind"]
    raise AgentError("engine_build" if kind == "crash" else kind, "%s; %s" % (text, ADVICE))


def parse(path, cache, limit_s=120.0):
    """What TensorRT's parser makes of a graph, in a process of its own; AgentError where it refuses it."""
    build = Build(path, {}, cache, "", lambda event: None, limit_s)
    return build.run({"only": "parse", "path": os.path.abspath(path)})["known"]


def sweep(cache):
    """Remove what builds left whose process is gone."""
    folder = plans.folder(cache)
    for name in os.listdir(folder):
        found = re.match(re.escape(WORK) + r"(\d+)-", name)
        if found and not os.path.exists("/proc/" + found.group(1)):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def room(cache, path):
    """A plan is about as large as its graph; twice that and the timing cache must fit."""
    need, free = 2 * os.path.getsize(path) + 64 * MIB, place.disk_free(plans.folder(cache))
    if free < need:
        raise AgentError("disk_full", "%d MB are needed in %s, %d MB are free" % (need // 1000000 + 1, cache, free // 1000000))


class Timing:
    """What builds have measured, for the next: a file a version, GPU and power mode, used while its hash is the one kept."""

    def __init__(self, cache, here):
        name = plans.key_of(here)[:24]
        self._path = os.path.join(plans.folder(cache), "timing-%s.bin" % name)
        self.path, self.sha256 = None, None
        try:
            with open(plans.beside(self._path)) as stream:
                kept = json.load(stream)["sha256"]
            if files.sha256(self._path) == kept:
                self.path, self.sha256 = self._path, kept
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def save(self, data):
        """Keep a new one; its hash, or None where the builder gave none."""
        if not data:
            return None
        plans.write(self._path, data)
        sha256 = files.sha256(self._path)
        plans.write(plans.beside(self._path), json.dumps({"sha256": sha256}).encode("utf-8"))
        return sha256


class Build:
    """Tries of one build."""

    def __init__(self, path, order, cache, key, tell, limit_s):
        self._path, self._order, self._cache, self._key, self._tell, self._limit_s = path, order, cache, key, tell, limit_s
        self._process, self._stopped = None, False

    def end(self):
        """Ask the process to stop, and end it where it does not."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._stopped = True
        process.terminate()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def attempt(self, limits, timing):
        """One try: plan, timing cache, what is known.

        Raises:
            AgentError: out_of_memory or crash: the next rung may do it; else there is no use in another.
        """
        folder = tempfile.mkdtemp(prefix="%s%d-" % (WORK, os.getpid()), dir=plans.folder(self._cache))
        out = {"plan": os.path.join(folder, "plan"), "timing_out": os.path.join(folder, "timing")}
        request = dict(self._order, path=os.path.abspath(self._path), limits=limits, timing=timing.path, **out)
        try:
            said = self.run(request)
            data = []
            for name in ("plan", "timing_out"):
                with open(out[name], "rb") as stream:
                    data.append(stream.read())
            return data[0], data[1], said["known"]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def run(self, request):
        """The last word of a process that does what `request` says; AgentError where it says of a failure."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = process = subprocess.Popen(child.words(), cwd="/", preexec_fn=smoke.die_with_agent, **pipes)
        complained = []
        lines = queue.Queue()
        readers = [
            threading.Thread(target=read_lines, args=(process.stdout, lines)),
            threading.Thread(target=read_tail, args=(process.stderr, complained)),
        ]
        for reader in readers:
            reader.daemon = True
            reader.start()
        try:
            process.stdin.write(json.dumps(request).encode("utf-8") + b"\n")
            process.stdin.close()
        except BrokenPipeError:  # it has ended already, and says why below
            pass
        try:
            last = self._listen(lines)
            code = process.wait()
            readers[1].join(1.0)
        finally:
            self.end()
            for pipe in (process.stdout, process.stderr):
                pipe.close()
        if self._stopped:
            raise AgentError("engine_build", "the build was stopped")
        return outcome(code, last, b"".join(complained).decode("utf-8", "replace").strip()[-1500:])

    def _listen(self, lines):
        """Tell what the process says until it ends; its last word."""
        began, last, timed_out = time.monotonic(), None, False
        while True:
            seconds = round(time.monotonic() - began, 1)
            if seconds > self._limit_s and not timed_out:
                timed_out = True
                self.end()
            try:
                message = lines.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                self._tell({"event": "building", "phase": None, "share": None, "elapsed_s": seconds, "left_s": None})
                continue
            if message is None:
                break
            if message.get("event") in ("built", "failed"):
                last = message
            else:
                self._tell(message)
        if timed_out:
            raise AgentError("engine_build", "the build did not end within %g s" % self._limit_s)
        return last


def outcome(code, last, complained):
    """What the builder said at its end; AgentError for every other end.

    Args:
        code: exit status, or minus the signal that ended it.
        last: its last word; None where it died before.
    """
    if last is not None and last["event"] == "failed":
        raise AgentError(last["kind"], last["text"])
    if code == -signal.SIGKILL:
        raise AgentError("out_of_memory", "the builder was killed (signal 9), most likely for want of memory")
    if code < 0:
        raise AgentError("crash", "the builder was ended by signal %d: %s" % (-code, complained))
    if code or last is None:
        raise AgentError("engine_build", "the builder ended with status %d: %s" % (code, complained))
    return last


def read_lines(stream, lines):
    """Every line of JSON into the queue, then None."""
    for line in iter(stream.readline, b""):
        try:
            message = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(message, dict):
            lines.put(message)
    lines.put(None)


def read_tail(stream, kept):
    for block in iter(lambda: stream.read(4096), b""):
        kept.append(block)
        del kept[:-8]
