"""Plans that travel: what of one goes to the host, whether it is at home on a machine, and how it is kept there.

A plan may come back to a machine like the one that built it, with the JSON that was beside it. As with every plan: its hash and
the machine are compared before TensorRT sees a byte.
"""

import hashlib
import json
import os

from ..wire import AgentError
from . import plans

ENCODING = "latin-1"  # of a calibration cache inside JSON: whatever its bytes are, they come back


def parts(path, cache):
    """Files that belong to a plan which is kept here: {"engine": path, "about": path}.

    Raises:
        AgentError: not a plan of this agent, or changed.
    """
    name = os.path.splitext(os.path.basename(path))[0]
    if os.path.dirname(path) != plans.folder(cache) or not path.endswith(".plan"):
        raise AgentError("bad_request", "not a plan that this agent keeps: %s" % path)
    if plans.find(cache, name) is None:
        raise AgentError("foreign_plan", "%s is no longer whole" % path)
    return {"engine": path, "about": plans.beside(path)}


def differences(about, made_of):
    """In words, what is another here than where a plan was built; empty where everything that goes into it is the same.

    Args:
        about: what the JSON beside the plan says.
        made_of: what a plan would be made of here, see plans.recipe.
    """
    there, words = about["made_of"], []
    for name in sorted(set(there["here"]) | set(made_of["here"])):
        old, new = there["here"].get(name), made_of["here"].get(name)
        if old != new:
            words.append("%s %s, here %s" % (name, old, new))
    if there.get("onnx_sha256") != made_of["onnx_sha256"]:
        words.append("it was built of another graph")
    flags = there.get("flags") if isinstance(there.get("flags"), dict) else {}
    for name in sorted(set(flags) | set(made_of["flags"])):
        old, new = flags.get(name), json.loads(json.dumps(made_of["flags"].get(name)))
        if old != new:
            words.append("built with %s %s, asked for %s" % (name, old, new))
    used = (there.get("calibration_sha256"), cache_sha256(about))
    if made_of["calibration_sha256"] not in used or there.get("calibration_method") != made_of["calibration_method"]:
        words.append("it was calibrated otherwise")
    return words


def cache_sha256(about):
    """Hash of the calibration cache that belongs to a plan; None where there is none."""
    text = about.get("calibration_cache")
    return hashlib.sha256(text.encode(ENCODING)).hexdigest() if isinstance(text, str) else None


def adopt(path, about_path, cache, here):
    """Keep a plan that came from the host, under its own hash, if it may be loaded here.

    Returns:
        its path.

    Raises:
        AgentError: foreign_plan, with the reason.
    """
    plan, about = plans.open_plan(path, here, about_path)
    kept = os.path.join(plans.folder(cache), about["plan_sha256"] + ".plan")
    plans.write(kept, plan)
    plans.write(plans.beside(kept), json.dumps(about, sort_keys=True, indent=1).encode("utf-8"))
    return kept
