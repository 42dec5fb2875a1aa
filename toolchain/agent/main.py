"""Protocol loop: one request a line, answered by `ok` or `error` with the request's id; events may come before the answer."""

import errno
import importlib
import json
import os
import platform
import sys
import traceback

from . import files, guard, wire

OPS = {  # operation: module, function; imported when asked for, so that a device without numpy can still say so
    "probe": ("probe", "answer"),
    "state": ("state", "answer"),
    "clock": ("clock", "answer"),
    "modes": ("modes", "names"),
    "set_mode": ("modes", "set_mode"),
    "restore_mode": ("modes", "restore_mode"),
    "heal_mode": ("modes", "heal"),
    "put": ("files", "put"),
    "get": ("files", "get"),
    "drop": ("files", "drop"),
    "lock": ("lock", "lock"),
    "version": ("convert", "version"),
    "convert": ("convert", "convert"),
    "fetch": ("convert", "fetch"),
    "adopt": ("convert", "adopt"),
    "build": ("engines", "build"),
    "bench": ("timing", "bench"),
    "go": ("timing", "go"),
    "paced": ("timing", "paced"),
    "whole": ("end_to_end", "go"),
    "infer": ("infer", "infer"),
    "profile": ("profile", "profile"),
    "energy": ("energy", "energy"),
    "power_probe": ("power.sampler", "probe"),
    "power_start": ("power.sampler", "start"),
    "power_stop": ("power.sampler", "stop"),
    "trial": ("smoke", "trial"),
    "trtexec": ("trt.measure", "answer"),
    "selftest": ("trt.selftest", "step"),
    "have": ("deploy", "have"),
    "deploy": ("deploy", "deploy"),
    "rollback": ("deploy", "rollback"),
    "deployed": ("deploy", "deployed"),
    "clean": ("clean", "clean"),
    "install": ("install", "install"),
}
OUT_OF_MEMORY = ("bad_alloc", "failed to allocate memory", "out of memory", "cannot allocate memory")


class Job:
    """What an operation gets: its request, the wire, and what earlier requests left in `memory`.

    `root` is where /sys, /proc and /etc are read: "/" but in tests. `guard.at_end` takes what must be put back when the
    agent ends.
    """

    def __init__(self, request, link, memory, cache, root="/", guard=None):
        self.request, self.link, self.memory, self.cache, self.root = request, link, memory, cache, root
        self.guard = guard

    def need(self, name, kind):
        """The request's field `name`, which must be of `kind`."""
        value = self.request.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise wire.AgentError("bad_request", "%s: %r is not what it must be" % (name, value))
        return value

    def event(self, name, **fields):
        self.event_with(b"", name, **fields)

    def event_with(self, raw, name, **fields):
        """An event with raw bytes behind it; its fields tell the host how many."""
        self.link.send({"id": self.request["id"], "event": name, "data": fields}, raw)


def explain(error):
    """Kind and text of any exception."""
    if isinstance(error, wire.AgentError):
        return error.kind, str(error)
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in OUT_OF_MEMORY):
        return "out_of_memory", str(error) or "MemoryError"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full", str(error)
    if isinstance(error, ImportError):
        return "runtime_missing", str(error)
    return "internal", "".join(traceback.format_exception(type(error), error, error.__traceback__)[-6:])


def serve(link, cache, root="/", guard=None):
    memory = {}
    while True:
        request = link.receive()
        if request is None:
            return 0
        identity = request.get("id")
        try:
            if request.get("op") not in OPS:
                raise wire.AgentError("bad_request", "unknown operation %r" % request.get("op"))
            module, function = OPS[request["op"]]
            operation = getattr(importlib.import_module("." + module, __package__), function)
            link.send({"id": identity, "ok": operation(Job(request, link, memory, cache, root, guard))})
        except BrokenPipeError:
            return 0
        except Exception as error:  # noqa: BLE001 - every failure is reported to the host, which decides
            kind, text = explain(error)
            try:
                link.send({"id": identity, "error": {"kind": kind, "text": text[-4000:]}})
            except BrokenPipeError:
                return 0
            if link.midway:
                return 1


def boot_id(root):
    """What the kernel calls this boot, to tell a reboot from a lost link; None where it does not say."""
    try:
        with open(os.path.join(root, "proc/sys/kernel/random/boot_id")) as stream:
            return stream.read().strip()
    except OSError:
        return None


def oom_kills():
    """How many processes the kernel has killed for want of memory; None where it does not count them."""
    try:
        with open("/proc/vmstat") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith("oom_kill ")), None)
    except OSError:
        return None


def main():
    link = wire.take_over_stdio()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime >= 1.32 writes into the home folder otherwise
    order = json.loads(sys.argv[1])
    cache, root = os.path.expanduser(order["cache"]), order.get("root", "/")
    for run in order.get("ended", ()):
        guard.end_run(run)
    kept = files.keep(sys.argv[0])  # modules are still read from it later
    watch = guard.Guard(link, order.get("run"))
    about = {"python": platform.python_version(), "arch": platform.machine(), "pid": os.getpid(), "boot_id": boot_id(root)}
    link.send({"hello": dict(about, protocol=wire.PROTOCOL, oom_kills=oom_kills())})
    files.sweep(cache)
    code = 1
    try:
        code = serve(link, cache, root, watch)
    except Exception:  # noqa: BLE001 - as Python itself would do
        traceback.print_exc()
    watch.finish()
    kept.close()
    sys.stderr.flush()
    os._exit(code)  # what a runtime does in its own clean-up is not waited for
