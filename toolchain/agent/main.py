"""Protocol loop: one request a line, answered by `ok` or `error` with the request's id; events may come before the answer."""

import errno
import importlib
import os
import platform
import sys
import traceback

from . import wire

OPS = {  # operation: module, function; imported when asked for, so that a device without numpy can still say so
    "probe": ("probe", "answer"),
    "state": ("state", "answer"),
    "clock": ("clock", "answer"),
    "put": ("files", "put"),
    "get": ("files", "get"),
    "build": ("engines", "build"),
    "bench": ("timing", "bench"),
    "go": ("timing", "go"),
    "infer": ("infer", "infer"),
    "profile": ("profile", "profile"),
    "trial": ("smoke", "trial"),
    "have": ("deploy", "have"),
    "deploy": ("deploy", "deploy"),
    "rollback": ("deploy", "rollback"),
    "deployed": ("deploy", "deployed"),
    "clean": ("clean", "clean"),
}
OUT_OF_MEMORY = ("bad_alloc", "failed to allocate memory", "out of memory", "cannot allocate memory")


class Job:
    """What an operation gets: its request, the wire, and what earlier requests left in `memory`.

    `root` is where /sys, /proc and /etc are read: "/" but in tests.
    """

    def __init__(self, request, link, memory, cache, root="/"):
        self.request, self.link, self.memory, self.cache, self.root = request, link, memory, cache, root

    def need(self, name, kind):
        """The request's field `name`, which must be of `kind`."""
        value = self.request.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise wire.AgentError("bad_request", "%s: %r is not what it must be" % (name, value))
        return value

    def event(self, name, **fields):
        self.link.send({"id": self.request["id"], "event": name, "data": fields})


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


def serve(link, cache, root="/"):
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
            link.send({"id": identity, "ok": operation(Job(request, link, memory, cache, root))})
        except BrokenPipeError:
            return 0
        except Exception as error:  # noqa: BLE001 - every failure is reported to the host, which decides
            kind, text = explain(error)
            link.send({"id": identity, "error": {"kind": kind, "text": text[-4000:]}})


def main():
    link = wire.take_over_stdio()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime >= 1.32 writes into the home folder otherwise
    cache = os.path.expanduser(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/edge-toolchain")
    root = sys.argv[2] if len(sys.argv) > 2 else "/"
    python, arch = platform.python_version(), platform.machine()
    link.send({"hello": {"protocol": wire.PROTOCOL, "python": python, "arch": arch, "pid": os.getpid()}})
    return serve(link, cache, root)
