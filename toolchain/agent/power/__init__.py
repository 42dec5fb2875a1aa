"""Sources of power, one file a kind, found by file name: `source_KIND.py`.

Contract of such a file (standard library only, Python 3.6 syntax):

    open_source(root, source) -> reader; UnreadableError(reason, detail, fix) where it cannot be read
        source              a [[power.source]] of the target as a dict: kind, rails {NAME: role}, and where to look
        reader.unit         "W": power of every rail; "J": a counter of energy
        reader.rails        names, in the order of the values
        reader.paths        {rail: what is read}
        reader.update_ms    what the driver says of its refresh, or None
        reader.quantum      {rail: least step, W or J}, or {} where not known
        reader.wrap_j       range of the counter, J, or None
        reader.averages     True where a value is the mean over the refresh before it
        reader.settings()   how the driver is set now, for the record
        reader.read()       values in the order of `rails`; None for one that cannot be read just now, never 0

Negative values are kept. Everything is read below `root`, anew every time, so that a sensor that is gone is seen to be gone.
"""

import importlib
import pkgutil

from ..wire import AgentError

PREFIX = "source_"


class UnreadableError(Exception):
    """Why a source gives nothing: `reason` is no_sensor, permission, unknown_rail_map or sampler_failed."""

    def __init__(self, reason, detail, fix=""):
        Exception.__init__(self, detail)
        self.reason, self.detail, self.fix = reason, detail, fix


def kinds():
    """All kinds this agent has a file for."""
    return sorted(module[1][len(PREFIX) :] for module in pkgutil.iter_modules(__path__) if module[1].startswith(PREFIX))


def open_source(root, source):
    """Reader of one source.

    Raises:
        UnreadableError: it is not there, or may not be read.
        AgentError: the request is wrong.
    """
    kind = source.get("kind") if isinstance(source, dict) else None
    if kind not in kinds():
        raise AgentError("bad_request", "unknown kind of power source %r; this agent has %s" % (kind, ", ".join(kinds())))
    if not isinstance(source.get("rails"), dict) or not source["rails"]:
        raise AgentError("bad_request", "a power source needs rails")
    return importlib.import_module("." + PREFIX + kind, __name__).open_source(root, source)


def needed(source):
    """Rails without which there is no total."""
    return [name for name, role in source["rails"].items() if role != "info"]
