"""Try a bundle where it is to work: its own infer.py, on its sample picture, in a process of its own."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from .wire import AgentError

SAMPLE, EXPECTED = "sample.ppm", "expected.json"
KILL_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
libc = ctypes.CDLL(None)  # loaded before any fork
SHOWN = 3  # differences named in an error


def die_with_agent():
    libc.prctl(KILL_WITH_PARENT, signal.SIGKILL)


def run(folder, min_score, limit_s):
    """What the bundle's infer.py answers for its sample picture.

    Raises:
        AgentError: it fails, dies or does not end, with what it said.
    """
    words = [sys.executable, os.path.join(folder, "infer.py"), os.path.join(folder, SAMPLE), "--min-score", repr(min_score)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd="/", preexec_fn=die_with_agent, **pipes) as process:
        try:
            said, complained = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AgentError("smoke", "infer.py did not end within %g s" % limit_s) from None
    text = complained.decode("utf-8", "replace").strip()[-2000:]
    if process.returncode == -signal.SIGKILL:
        raise AgentError("out_of_memory", "infer.py was killed (signal 9)")
    if process.returncode < 0:
        raise AgentError("smoke", "infer.py was ended by signal %d: %s" % (-process.returncode, text))
    if process.returncode:
        missing = "ModuleNotFoundError" in text or "ImportError" in text
        raise AgentError("runtime_missing" if missing else "smoke", "infer.py failed: %s" % text)
    try:
        answer = json.loads(said.decode("utf-8"))
        return {"detections": list(answer["detections"]), "times": dict(answer["times"])}
    except (ValueError, KeyError, TypeError):
        raise AgentError("smoke", "infer.py printed something else than one answer: %r" % said[:200]) from None


def overlap(one, other):
    """IoU of two x1, y1, x2, y2 boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inner = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - inner
    return inner / both if both > 0 else float(one == other)


def describe(detection):
    sides = ", ".join("%.0f" % side for side in detection["box"])
    return "%s %.2f at (%s)" % (detection["label"], detection["score"], sides)


def differences(expected, found):
    """In plain words, what was found otherwise than when the bundle was built; empty where the two agree.

    A detection whose score is within the tolerance of the threshold may be there or not.
    """
    left, said = list(found), []
    surely = expected["min_score"] + expected["score_tolerance"]
    for want in expected["detections"]:
        near = [
            one for one in left if one["class"] == want["class"] and overlap(one["box"], want["box"]) >= expected["least_iou"]
        ]
        if not near:
            if want["score"] > surely:
                said.append("not found: " + describe(want))
            continue
        best = max(near, key=lambda one: overlap(one["box"], want["box"]))
        left.remove(best)
        if not abs(best["score"] - want["score"]) <= expected["score_tolerance"]:
            said.append("%s, was %.2f" % (describe(best), want["score"]))
    return said + ["found: " + describe(one) for one in left if not one["score"] <= surely]


def check(folder, limit_s):
    """Run it and compare.

    Returns:
        how many detections agree, and infer.py's times.
    """
    with open(os.path.join(folder, EXPECTED)) as stream:
        expected = json.load(stream)
    answer = run(folder, expected["min_score"], limit_s)
    wrong = differences(expected, answer["detections"])
    if wrong:
        more = "" if len(wrong) <= SHOWN else " and %d more" % (len(wrong) - SHOWN)
        raise AgentError("smoke", "the sample picture gives other detections here: %s%s" % ("; ".join(wrong[:SHOWN]), more))
    return {"detections": len(answer["detections"]), "times": answer["times"]}


def trial(job):
    """Run a bundle that is still being made: files of it (name -> path) as if they lay in one folder.

    Returns:
        what its infer.py finds on the sample picture, from `min_score` on.
    """
    parent = os.path.join(job.cache, "trial")
    os.makedirs(parent, mode=0o700, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="try-", dir=parent)
    try:
        for name, path in job.need("files", dict).items():
            os.symlink(path, os.path.join(folder, os.path.basename(name)))
        return run(folder, job.need("min_score", (int, float)), job.need("limit_s", (int, float)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
