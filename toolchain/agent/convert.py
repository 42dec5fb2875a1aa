"""Turn a graph into what its runtime runs, once a device, version and set of options; what was made stays in its folder."""

import os
import shutil

from . import files, runtimes
from .wire import AgentError


def convert(job):
    """The request's `order` is the runtime's own; what happens meanwhile goes out as events.

    Returns:
        path of what was made, and what belongs to it.
    """
    path, provider, order = job.need("path", str), job.need("provider", str), job.need("order", dict)
    runtime = builder(job)

    def tell(event):
        job.event(event.get("event", "note"), **{key: value for key, value in event.items() if key != "event"})

    made, about = runtime.convert(path, provider, order, job.cache, tell, job.root, job.guard.at_end if job.guard else None)
    return dict(about, path=made)


def builder(job):
    """The runtime asked for, which is installed and builds.

    Raises:
        AgentError, ImportError
    """
    name = job.need("runtime", str)
    runtime = runtimes.find(name)
    if not getattr(runtime, "BUILDS", False):
        raise AgentError("bad_request", "%s loads a graph as it is" % name)
    runtime.version()
    return runtime


def fetch(job):
    """What was made, as files that the host can get: each of the parts asked for -> path, sha256, size."""
    found = {}
    wanted = job.need("parts", list)
    for part, path in builder(job).parts(job.need("path", str), job.cache).items():
        if part not in wanted:
            continue
        copy = files.new_output(job, os.path.splitext(path)[1])
        shutil.copyfile(path, copy)
        found[part] = files.publish(copy)
    return found


def adopt(job):
    """Keep what the host has got back from a machine like this one; refused where this is another."""
    return {"path": builder(job).adopt(job.need("path", str), job.need("about", str), job.cache, job.root)}


def version(job):
    """The runtime's version; what is asked before a graph travels."""
    return {"version": runtimes.find(job.need("runtime", str)).version()}
