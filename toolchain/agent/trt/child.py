"""The process that builds: killed or crashed, it takes nothing else along. Says what happens as JSON lines on stdout."""

import json
import os
import signal
import sys
import traceback

from ..wire import AgentError

HERE = os.path.abspath(__file__)
START = (
    "import sys,importlib; sys.path[:] = [sys.argv[1]] + [p for p in sys.path if p]; importlib.import_module(sys.argv[2]).main()"
)
STOPPED, FAILED = 4, 1


class StoppedError(Exception):
    """The build was cancelled."""


def words(module=__name__):
    """Command line of a Python that runs `main` of a module of this agent, in its zip or in a folder."""
    root = HERE
    for _ in __name__.split("."):
        root = os.path.dirname(root)
    return [sys.executable, "-c", START, root, module]


def take_over_stdout():
    """A function that says one thing to the parent; whatever a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(message):
        out.write(json.dumps(message).encode("utf-8") + b"\n")

    return say


def main():
    """Reads one line, the order, and builds; the plan and the timing cache go into the files that it names."""
    say = take_over_stdout()
    stop = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    order = json.loads(sys.stdin.readline())
    code = FAILED
    try:
        from . import build_net

        if order.get("only") == "parse":
            known = build_net.parse_alone(order["path"])
        else:
            plan, timing, known = build_net.build(order["path"], order, say, lambda: bool(stop))
            for name, data in (("plan", plan), ("timing_out", timing)):
                with open(order[name], "wb") as stream:
                    stream.write(data)
        say({"event": "built", "known": known})
        code = 0
    except AgentError as error:
        say({"event": "failed", "kind": error.kind, "text": str(error)[-3000:]})
    except MemoryError:
        say({"event": "failed", "kind": "out_of_memory", "text": "MemoryError"})
    except ImportError as error:
        say({"event": "failed", "kind": "runtime_missing", "text": str(error)})
    except StoppedError:
        code = STOPPED
    except Exception:  # noqa: BLE001 - the parent must hear of it
        say({"event": "failed", "kind": "internal", "text": traceback.format_exc()[-3000:]})
    sys.stderr.flush()
    os._exit(code)  # what a runtime does in its own clean-up is not waited for
