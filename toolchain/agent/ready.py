"""Before a bundle is tried here: the engine that its runtime builds for one machine alone, as TensorRT does.

What came in the bundle is used where everything that it was made of is the same here; else one is built of the bundle's graph,
and lies beside it. Nothing of that is silent: the answer says which, and why.
"""

import json
import os
import shutil
import tempfile

from . import files, runtimes
from .wire import AgentError

BUILT = "built-here"  # name of what was built, without suffix; infer.py takes it before the bundle's own
PARTIAL = ".part-"


def ready(job, folder):
    """See that the bundle in `folder` has an engine for this machine.

    Returns:
        None where its engine is loaded as it is anywhere; else {"built", "reused", "why"}: whether one was built here, whether
        that was before, and why the bundle's own was not used.

    Raises:
        AgentError: of the build.
    """
    with open(os.path.join(folder, "manifest.json")) as stream:
        manifest = json.load(stream)
    conversion = manifest.get("conversion")
    if conversion is None:
        return None
    runtime = runtimes.find(manifest["runtime"]["name"])
    try:
        runtime.version()
    except ImportError as error:
        raise AgentError("runtime_missing", str(error)) from error
    order = dict(conversion["order"])
    if conversion["calibration"]:
        path = os.path.join(folder, conversion["calibration"])
        order["calibration"] = {"sha256": files.sha256(path), "cache": path}
    asked = (os.path.join(folder, manifest["source"]), conversion["provider"], order)

    def unlike(name):
        path = os.path.join(folder, name)
        return runtime.differences(path, *asked, root=job.root) if os.path.exists(path) else ["there is none"]

    remove(folder, PARTIAL)
    why = unlike(conversion["engine"]) if conversion["engine"] else ["the bundle holds none"]
    if not why:
        remove(folder, BUILT)
        return {"built": False, "reused": False, "why": []}
    if not unlike(BUILT + ".plan"):
        return {"built": True, "reused": True, "why": why}
    job.event("step", step="build")

    def tell(event):
        job.event(event.get("event", "note"), **{key: value for key, value in event.items() if key != "event"})

    guard = getattr(job, "guard", None)
    made, about = runtime.convert(*asked, job.cache, tell, job.root, guard.at_end if guard else None)
    keep(folder, runtime.parts(made, job.cache))
    return {"built": True, "reused": about["reused"], "why": why}


def remove(folder, beginning):
    """Files whose names begin so: what a kill has left half copied, or what is no longer needed."""
    for name in os.listdir(folder):
        if name.startswith(beginning):
            os.remove(os.path.join(folder, name))


def keep(folder, parts):
    """Copies of the parts under the name BUILT; the engine last, so that it never stands there without what belongs to it.

    Whoever may read the bundle may read them.
    """
    mode = os.stat(os.path.join(folder, "manifest.json")).st_mode & 0o777
    for name in sorted(parts, key=lambda name: name == "engine"):
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, dir=folder)
        with os.fdopen(handle, "wb") as target, open(parts[name], "rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(partial, mode)
        os.rename(partial, os.path.join(folder, BUILT + os.path.splitext(parts[name])[1]))
