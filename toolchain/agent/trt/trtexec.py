"""NVIDIA's trtexec, where it is on the board: command lines by version, its JSON files, its exit status; its text is never read.

From 11 on it spins, leaves out the copies and uses a CUDA graph unless told otherwise; up to 10 it does not unless told so.
Numbers of
the two are comparable only with all of it said, so it always is. Source: sampleOptions.cpp of NVIDIA/TensorRT, branches 8.5 to
11.1.
"""

import glob
import os
import shutil
import signal
import subprocess
import tempfile

from .. import smoke
from ..wire import AgentError
from . import layers

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
OVERRIDE = "EDGE_TRTEXEC"
SHOWN = 2000
TELL_S = 5.0
# flags that are not there in every version: first that has it, first that has it no more
SINCE = {
    "--skipInference": ((8, 6), None),
    "--buildOnly": ((8, 5), (10, 0)),
    "--stronglyTyped": ((10, 0), None),
    "--fp16": ((8, 5), (11, 0)),
    "--bf16": ((10, 0), (11, 0)),
    "--int8": ((8, 5), (11, 0)),
    "--calib": ((8, 5), (11, 0)),
    "--versionCompatible": ((8, 6), None),
    "--hardwareCompatibilityLevel": ((8, 6), None),
}
COMPATIBLE = {"AMPERE_PLUS": "ampere+", "SAME_COMPUTE_CAPABILITY": "sameComputeCapability"}
EXPORTS = {"times": "--exportTimes", "profile": "--exportProfile", "layers": "--exportLayerInfo"}


def find():
    """Path of trtexec, or None."""
    if os.environ.get(OVERRIDE):
        return os.environ[OVERRIDE]
    found = [path for path in PLACES if os.access(path, os.X_OK)] or sorted(glob.glob("/usr/src/tensorrt*/bin/trtexec"))
    return found[-1] if found else shutil.which("trtexec")


def has(flag, version):
    """Whether trtexec of this version ("10.3.0") takes a flag of SINCE."""
    first, gone = SINCE[flag]
    number = tuple(int(part) for part in version.split(".")[:2])
    return first <= number and (gone is None or number < gone)


def build_words(version, onnx, plan, timing, order):
    """Command line that makes a plan; `order` as of ladder.ORDER with the limits of a rung.

    Raises:
        AgentError: this version cannot do what is asked.
    """
    words = ["--onnx=" + onnx, "--saveEngine=" + plan, "--timingCacheFile=" + timing, "--profilingVerbosity=detailed"]
    words.append("--memPoolSize=workspace:%d" % max(1, order["limits"]["workspace"] >> 20))
    words.append("--skipInference" if has("--skipInference", version) else "--buildOnly")
    if order["precision"] == "graph":
        if has("--stronglyTyped", version):
            words.append("--stronglyTyped")
        elif order.get("quantized"):
            words.append("--int8")  # 8.x wants the flag for Q/DQ
    else:
        need = {"fp16": ["--fp16"], "bf16": ["--bf16"], "int8": ["--fp16", "--int8"]}[order["precision"]]
        lacking = [flag for flag in need if not has(flag, version)]
        if lacking:
            raise AgentError(
                "engine_build", "trtexec %s has no %s: export a graph with these types in it" % (version, lacking[0])
            )
        words += need + (["--int8"] if order.get("quantized") and "--int8" not in need else [])
    if order["precision"] == "int8" and not order.get("quantized"):
        if not (order.get("calibration") or {}).get("cache"):
            raise AgentError(
                "engine_build", "trtexec would invent the ranges: INT8 needs Q/DQ in the graph or a calibration cache"
            )
        words.append("--calib=" + order["calibration"]["cache"])
    for flag, asked in (
        ("--versionCompatible", order.get("version_compatible")),
        ("--hardwareCompatibilityLevel", order.get("hardware_compatible")),
    ):
        if asked:
            if not has(flag, version):
                raise AgentError("engine_build", "trtexec %s has no %s" % (version, flag))
            words.append(flag if asked is True else "%s=%s" % (flag, COMPATIBLE[asked]))
    if order.get("dla") is not None:
        words.append("--useDLACore=%d" % order["dla"])
        words += ["--allowGPUFallback"] if order.get("gpu_fallback", True) else []
    for name, (low, usual, high) in sorted((order.get("shapes") or {}).items()):
        for flag, shape in (("--minShapes", low), ("--optShapes", usual), ("--maxShapes", high)):
            words.append("%s=%s:%s" % (flag, name, "x".join(str(side) for side in shape)))
    return words


def measure_words(version, plan, exports, shape=None, seconds=10, warm_up_ms=500, core=None):
    """Command line that times a plan.

    Args:
        exports: paths of the files that it writes: times, profile, layers.
        shape: of the input, as (name, sides), where the plan takes several.
        core: of the DLA that the plan was built for.
    """
    words = ["--loadEngine=" + plan, "--useSpinWait", "--noDataTransfers", "--useCudaGraph", "--separateProfileRun"]
    words += ["--warmUp=%d" % warm_up_ms, "--duration=%d" % seconds, "--iterations=100", "--percentile=50,90,95,99"]
    words += ["%s=%s" % (EXPORTS[name], path) for name, path in sorted(exports.items())]
    if shape is not None:
        words.append("--shapes=%s:%s" % (shape[0], "x".join(str(side) for side in shape[1])))
    if core is not None:
        words.append("--useDLACore=%d" % core)
    return words


def run(words, wanted, limit_s, program=None):
    """Run it.

    Args:
        wanted: files that must be there afterwards.

    Returns:
        the end of what it printed, for the record alone.

    Raises:
        AgentError: not here, failed, killed, too slow, or a file is missing; never half a success.
    """
    program = program or find()
    if program is None:
        raise AgentError("runtime_missing", "no trtexec on this device (not in %s, nor on the PATH)" % os.path.dirname(PLACES[0]))
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd="/",
            preexec_fn=smoke.die_with_agent,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AgentError("engine_build", "trtexec did not end within %g s" % limit_s) from None
        size = said.tell()
        said.seek(max(0, size - SHOWN))
        text = said.read().decode("utf-8", "replace").strip()
    if code in (-signal.SIGKILL, 137):
        raise AgentError("out_of_memory", "trtexec was killed (signal 9), most likely for want of memory")
    if code:
        raise AgentError("engine_build", "trtexec ended with %d: %s" % (code, text))
    missing = [path for path in wanted if not (os.path.exists(path) and os.path.getsize(path))]
    if missing:
        raise AgentError(
            "engine_build", "trtexec says that all went well, but %s is missing: %s" % (os.path.basename(missing[0]), text)
        )
    return text


def latency(plan, version, folder, shape=None, seconds=10, program=None, core=None):
    """Times, layers and layer times of a plan by trtexec.

    Returns:
        {"words", "compute_ms": every sample, "profile": rows or None, "passes", "layers": rows, "problems": files that could
        not be read, "log"}

    Raises:
        AgentError: as of `run`; times that cannot be read are an error, the other files are named in `problems`.
    """
    exports = {name: os.path.join(folder, name + ".json") for name in EXPORTS}
    words = measure_words(version, plan, exports, shape, seconds, core=core)
    found = {"words": words, "log": run(words, list(exports.values()), 60 + 6 * seconds, program), "problems": {}}
    try:
        found["compute_ms"] = layers.read_times(text_of(exports["times"]))
    except ValueError as error:
        raise AgentError("engine", "trtexec's times: %s" % error) from error
    for name, read in (("profile", layers.read_profile), ("layers", layers.read)):
        try:
            found[name] = read(text_of(exports[name]))
        except ValueError as error:
            found[name], found["problems"][name] = None, str(error)
    found["passes"], found["profile"] = found["profile"] or (None, None)
    return found


def text_of(path):
    with open(path, "rb") as stream:
        return stream.read().decode("utf-8", "replace")
