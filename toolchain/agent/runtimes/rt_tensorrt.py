"""TensorRT 8.5 to 11.4. An ONNX graph becomes a plan, which is kept in the agent's folder; see toolchain/agent/trt/."""

import os
import re
import shutil
import tempfile

from ..wire import AgentError
from . import split

NAME = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8")
PROFILES = True
BUILDS = True
GPU, DLA = "gpu", re.compile(r"^dla([0-9])\Z")
YES_NO = {"yes": True, "no": False}
OPTIONS = {  # of a provider, as in "gpu:precision=fp16,workspace_mib=512"; see trt/ladder.py for what they mean
    "precision": {name: name for name in ("graph", "fp16", "bf16", "int8", "fp8")},  # fp8: only as the graph's own
    "workspace_mib": None,
    "gpu_fallback": YES_NO,
    "version_compatible": YES_NO,
    "hardware_compatible": {name: name.upper() for name in ("ampere_plus", "same_compute_capability")},
    "calibration": {name: name for name in ("entropy", "minmax")},
}
DLA_DEVICES = "/sys/bus/platform/devices"


def version():
    import tensorrt

    return tensorrt.__version__


def providers():
    """The GPU, and the DLA cores that the kernel knows; whether TensorRT can use them is seen when one is asked for."""
    names = os.listdir(DLA_DEVICES) if os.path.isdir(DLA_DEVICES) else []
    cores = sum("nvdla" in name for name in names)
    return [GPU] + ["dla%d" % core for core in range(cores)]


def wish(provider):
    """Number of the DLA core, None for the GPU, and the order that the provider's options are.

    Raises:
        AgentError: there is no such provider here, or no such option.
    """
    from ..trt import api

    name, options = split(provider)
    order = {key: value_of(key, text) for key, text in options.items()}
    if name == GPU:
        return None, order
    found = DLA.match(name)
    if not found:
        raise AgentError("provider", "%s is not among the providers here: %s" % (name, ", ".join(providers())))
    trt = api.module()
    cores = api.dla_cores(trt, api.new_logger(trt))
    if int(found.group(1)) >= cores:
        raise AgentError("provider", "TensorRT %s has %d DLA cores here, %s was asked for" % (trt.__version__, cores, name))
    return int(found.group(1)), order


def value_of(key, text):
    if key not in OPTIONS:
        raise AgentError("provider", "unknown option %s; there are %s" % (key, ", ".join(sorted(OPTIONS))))
    known = OPTIONS[key]
    if known is None and text.isdigit() and 16 <= int(text) <= 1 << 20:
        return int(text)
    if known is None or text.lower() not in known:
        raise AgentError("provider", "%s=%s: %s expected" % (key, text, " or ".join(sorted(known or ("16 to 1048576",)))))
    return known[text.lower()]


def asked(provider, order):
    """The whole order that a provider's options and a request make together."""
    core, options = wish(provider)
    method = options.pop("calibration", "entropy")
    whole = dict(order, dla=core, **options)
    if order.get("calibration"):
        whole["calibration"] = dict(order["calibration"], method=method)
    return whole


def convert(path, provider, order, cache, tell=lambda event: None, root="/", at_end=None):
    """The plan for a graph, built where it was not kept from before; see ladder.convert."""
    from ..trt import ladder

    return ladder.convert(path, asked(provider, order), cache, tell, root, at_end=at_end)


def parts(made, cache):
    """Files of a plan that is kept here, see travel.parts."""
    from ..trt import travel

    return travel.parts(made, cache)


def differences(made, path, provider, order, root="/"):
    """Why a plan is not what would be built of a graph here, in words; none where it is."""
    from ..trt import ladder, place, plans, travel

    try:
        about = plans.open_plan(made, place.here(root))[1]
    except AgentError as error:
        return [str(error)]
    whole = ladder.complete(asked(provider, order))
    return travel.differences(about, plans.recipe(plans.graph_sha256(path), whole, place.here(root)))


def adopt(made, about, cache, root="/"):
    """Keep a plan that came from the host, see travel.adopt."""
    from ..trt import place, travel

    return travel.adopt(made, about, cache, place.here(root))


def load(path, provider, threads, profile_to=None, cache=None, root="/"):
    """A plan that was built here, or an ONNX graph, which is built first as it is. `threads` is the CPU's: nothing here."""
    from ..trt import engine, place, plans

    core, options = wish(provider)
    temporary = None if cache or path.endswith(".plan") else tempfile.mkdtemp(prefix="edge-plan-")
    try:
        if not path.endswith(".plan"):
            path = convert(path, provider, {}, cache or temporary, root=root)[0]
        plan, about = plans.open_plan(path, place.here(root))
    finally:
        if temporary:
            shutil.rmtree(temporary)
    flags = about["made_of"]["flags"]
    built_for = flags.get("dla")
    if built_for != core:
        there = GPU if built_for is None else "dla%d" % built_for
        raise AgentError("provider", "the plan was built for %s, %s was asked for" % (there, provider))
    for key, value in sorted(options.items()):
        # the graph says so itself
        typed = key == "precision" and flags.get("typed_from") and value == ("fp8" if about.get("fp8") else "fp16")
        if key != "calibration" and flags.get(key) != value and not typed:
            raise AgentError("provider", "the plan was built with %s=%s, asked for %s=%s" % (key, flags.get(key), key, value))
    made = engine.Engine(plan, about, provider, core, profiling=profile_to is not None)
    return made if profile_to is None else Profiled(made)


class Profiled:
    """An engine whose layers are timed in every run; slower than it is, so never used for latency."""

    def __init__(self, made):
        self._engine, self._runs = made, []
        self.provider, self.version, self.options = made.provider, made.version, made.options
        self.inputs, self.outputs = made.inputs, made.outputs

    def run(self, array):
        self._runs.append(self._engine.profiled_run(array))

    def end_profile(self):
        """Every run as the contract wants it, with what the inspector says of each layer."""
        from ..trt import layers

        try:
            known = {row["name"]: row for row in layers.read(self._engine.inspector_json())}
        except ValueError:
            known = {}
        return [(total, [node(name, ms, known.get(name)) for name, ms in times]) for total, times in self._runs]


def node(name, ms, row):
    """One layer of one run."""
    if row is None:
        return {"name": name, "op": "?", "provider": None, "shape": None, "ms": ms}
    op = "%s %s" % (row["type"], row["precision"])
    return {"name": name, "op": op, "provider": row["device"], "shape": row["shape"], "ms": ms}
