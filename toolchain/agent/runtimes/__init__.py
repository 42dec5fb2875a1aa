"""Runtimes, one file each, found by file name: `rt_NAME.py`.

Contract of such a file (standard library, numpy and the runtime itself, imported inside its functions; Python 3.6 syntax):

    NAME        the NAME of the file
    PRECISIONS  tuple of "fp32", "fp16", "int8"
    version()   the runtime's version; ImportError where it is not installed
    providers() names that `load` may be asked for
    load(path, provider, threads) -> engine; AgentError("provider", ...) when that provider cannot be had, never another one;
        provider is a NAME with options of the runtime's own, or without: "NAME:KEY=VALUE,KEY=VALUE", see `split`
        engine.provider             the one asked for, once it was seen to be the one really used
        engine.version, .options    strings and numbers for the record
        engine.inputs, .outputs     list of {"name", "shape" (int, or str/None where free), "type" (numpy name)}
        engine.run(array)           list of numpy arrays, which the next run may overwrite
        engine.device_ms            only where the runtime knows: time of the last run on the accelerator alone

Only where the runtime makes something of its own out of the graph, which takes long and is kept (see toolchain/agent/convert.py):

    BUILDS      True
    load(..., cache=folder, root="/")   takes what was built, or the graph, which is then built first as it is
    convert(path, provider, order, cache, tell, root, at_end)   path of what was built, and a dict about it
    parts(made, cache)              {"engine": path, "about": path}: what of it goes to the host
    adopt(made, about, cache, root) path under which it is kept when it comes back; refused on another kind of machine
    differences(made, path, provider, order, root)   why it is not what would be built of a graph here, in words

Only where the runtime can time its nodes:

    PROFILES    True
    load(..., profile_to=path)      writes what it records to files whose names begin with `path`
        engine.end_profile()        every run as (total ms, nodes in order as {"name", "op", "provider", "shape", "ms"});
                                    shape is the first output's, provider and shape are None where not recorded
"""

import importlib
import pkgutil

from ..wire import AgentError

PREFIX = "rt_"


def names():
    """Names of all runtimes this agent has a file for."""
    return sorted(module[1][len(PREFIX) :] for module in pkgutil.iter_modules(__path__) if module[1].startswith(PREFIX))


def find(name):
    """The runtime's module.

    Raises:
        AgentError: there is no file for it.
    """
    if name not in names():
        raise AgentError("bad_request", "unknown runtime %r; this agent has %s" % (name, ", ".join(names())))
    return importlib.import_module("." + PREFIX + name, __name__)


def split(provider):
    """Name and options of a provider written "NAME" or "NAME:KEY=VALUE,KEY=VALUE".

    Raises:
        AgentError: it is written otherwise.
    """
    name, _, rest = provider.partition(":")
    options = {}
    for part in rest.split(",") if rest else ():
        key, sign, value = part.partition("=")
        if not (key and sign and value):
            raise AgentError("provider", "options are KEY=VALUE, between commas: %r" % provider)
        options[key] = value
    return name, options
