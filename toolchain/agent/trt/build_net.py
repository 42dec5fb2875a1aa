"""ONNX -> plan with TensorRT's builder. Runs in a process of its own (see child.py): the builder may be killed or crash."""

import os
import time

from ..wire import AgentError
from . import api, gpu
from .calibration import calibrator
from .child import StoppedError
from .travel import ENCODING

UNSUPPORTED = ("UNSUPPORTED_NODE", "UNSUPPORTED_GRAPH")  # the parser's codes, by name
MISSING_OP = ("No importer registered", "Plugin not found")
FIRST_FP8 = (8, 9)  # compute capability: Ada; Orin has 8.7
TELL_SHARE, TELL_S = 0.01, 1.0  # progress is told when it has come so far, or after so long
MAX_BATCH = 8  # of a graph with a free batch: what inference over a set takes at once


def build(path, order, say, stopped):
    """Build it.

    Args:
        path: of the ONNX graph.
        order: see `ladder.ORDER`, with the limits of one rung in `limits`.
        say: called with what happens, in JSON's types.
        stopped: function; True cancels the build where the version can.

    Returns:
        plan, timing cache, and what is known of both for the record.

    Raises:
        AgentError: parse, unsupported_op, engine_build, out_of_memory, no_cuda.
        StoppedError: on request.
    """
    trt = api.module()
    log = api.new_logger(trt)
    began = time.monotonic()
    # every object stays referenced to the end: from 8.6 on a parser does not keep its network alive
    builder = api.started(trt.Builder, log)
    strong = order["precision"] == "graph" and api.optional(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") is not None
    network = builder.create_network(network_flags(trt, strong))
    parser = trt.OnnxParser(network, log)
    parse(trt, parser, path, log)
    say({"event": "parsed", "layers": network.num_layers})
    eight = has_fp8(trt, network)
    if eight:
        check_fp8()
    config = builder.create_builder_config()
    calibrator_used, profile, flags = configure(trt, builder, network, config, order, strong)
    kept = [calibrator_used, profile]
    timing = timing_cache(trt, config, order.get("timing"), say)
    kept.append(watch(trt, config, say, stopped, began))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if stopped():
            raise StoppedError()
        raise failed(log)
    known = {"layers": network.num_layers, "typing": "strong" if strong else "weak", "log": log.problems[-20:]}
    known["builder_flags"], known["fp8"] = flags, eight
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    known["inputs"] = {tensor.name: [int(side) for side in tuple(tensor.shape)] for tensor in inputs}
    if calibrator_used is not None and calibrator_used.cache():
        known["calibration_cache"] = calibrator_used.cache().decode(ENCODING)
    known["seconds"] = round(time.monotonic() - began, 3)
    del kept
    return bytes(plan), b"" if timing is None else bytes(timing.serialize()), known


def parse_alone(path):
    """What the parser makes of a graph, typed as the graph says; AgentError where it refuses it."""
    trt = api.module()
    log = api.new_logger(trt)
    builder = api.started(trt.Builder, log)
    network = builder.create_network(network_flags(trt, True))
    parser = trt.OnnxParser(network, log)
    parse(trt, parser, path, log)
    return {"layers": network.num_layers, "log": log.problems[-20:]}


def network_flags(trt, strong):
    """EXPLICIT_BATCH is needed on 8.x and gone in 11; the numbers move between versions, so only names are used."""
    flags = 0
    for name in ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if strong else []):
        member = api.optional(trt.NetworkDefinitionCreationFlag, name)
        if member is not None:
            flags |= 1 << int(member)
    return flags


def parse(trt, parser, path, log):
    """The graph into the network; AgentError names node, operator and what the parser says."""
    if parser.parse_from_file(path):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    text = "; ".join(describe(error) for error in errors[:5]) or api.tail(log) or "the parser gives no reason"
    codes = {api.name_of(error.code()) for error in errors}
    unsupported = codes.intersection(UNSUPPORTED) or any(words in text for words in MISSING_OP)
    raise AgentError("unsupported_op" if unsupported else "parse", "TensorRT %s: %s" % (trt.__version__, text))


def describe(error):
    """One parser error: which node, which operator, what is wrong."""
    node, operator = api.optional(error, "node_name"), api.optional(error, "node_operator")  # from 10.0 on
    where = "node %d" % error.node()
    if node is not None:
        where += " %s" % node()
    if operator is not None:
        where += " (%s)" % operator()
    return "%s: %s" % (where, error.desc())


def failed(log):
    """Why there is no plan. The log's words change by version: they are a hint, and the ladder treats them so."""
    text = api.tail(log)
    low = text.lower()
    if "memory" in low or "could not find any implementation" in low or "insufficient workspace" in low:
        return AgentError("out_of_memory", text)
    return AgentError("engine_build", text or "TensorRT gives no reason")


def configure(trt, builder, network, config, order, strong):
    """Everything the order asks for; returns calibrator and profile, which must stay referenced, and names of precision flags."""
    limits = order["limits"]
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits["workspace"])
    for pool, key in (("TACTIC_DRAM", "tactic_dram"), ("DLA_LOCAL_DRAM", "dla_dram"), ("DLA_GLOBAL_DRAM", "dla_dram")):
        member = api.optional(trt.MemoryPoolType, pool)
        if member is not None and limits.get(key):
            config.set_memory_pool_limit(member, limits[key])
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows only names
    if limits.get("own_tactics"):
        drop_tactic_sources(trt, config)
    level(trt, config, limits)
    made, flags = precision(trt, network, config, order, strong)
    compatibility(trt, config, order)
    if order.get("dla") is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = order["dla"]
        if order.get("gpu_fallback", True):
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    profile = shapes(trt, builder, network, order, limits)
    if profile is not None:
        config.add_optimization_profile(profile)
    return made, profile, flags


def drop_tactic_sources(trt, config):
    """Without the libraries that want much memory; in 11 they are gone anyway."""
    mask = config.get_tactic_sources()
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        member = api.optional(trt.TacticSource, name)
        if member is not None:
            mask &= ~(1 << int(member))
    config.set_tactic_sources(mask)


def level(trt, config, limits):
    """Less search where a rung of the ladder asks for it."""
    if limits.get("level") is None:
        return
    if hasattr(config, "builder_optimization_level"):  # from 8.6 on
        config.builder_optimization_level = limits["level"]
        config.max_aux_streams = 0
    else:
        heuristic = api.optional(trt.BuilderFlag, "ENABLE_TACTIC_HEURISTIC")
        if heuristic is not None:
            config.set_flag(heuristic)


def precision(trt, network, config, order, strong):
    """Flags of the weak typing of 8.x and 10.x; where typing is strong the graph itself says everything.

    Returns:
        calibrator or None, names of the flags.
    """
    wanted = order["precision"]
    if strong:
        return None, []
    flags = {"graph": [], "fp16": ["FP16"], "bf16": ["BF16"], "int8": ["FP16", "INT8"]}[wanted]
    quantized = has_quantize(trt, network)
    if quantized and "INT8" not in flags:
        flags = [*flags, "INT8"]  # without the flag 8.x refuses Q/DQ
    for name in flags:
        member = api.optional(trt.BuilderFlag, name)
        if member is None:
            text = "TensorRT %s has no flag %s: export a graph with these types in it (precision graph)" % (trt.__version__, name)
            raise AgentError("engine_build", text)
        config.set_flag(member)
    if wanted != "int8" or quantized:
        return None, flags
    if not order.get("calibration"):
        raise AgentError("engine_build", "INT8 without Q/DQ in the graph needs a calibration: TensorRT would invent the ranges")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    made = calibrator(trt, order["calibration"], {tensor.name: tuple(tensor.shape) for tensor in inputs})
    config.int8_calibrator = made
    return made, flags


def has_quantize(trt, network):
    """Whether the graph holds Q/DQ."""
    kinds = (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
    return any(network.get_layer(index).type in kinds for index in range(network.num_layers))


def has_fp8(trt, network):
    """Whether the graph holds FP8 Q/DQ."""
    kind = api.optional(trt.DataType, "FP8")  # from 8.6 on
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return kind is not None and any(
        layer.type == trt.LayerType.QUANTIZE and layer.get_output(0).dtype == kind for layer in layers
    )


def check_fp8():
    """AgentError where the GPU has no FP8: the builder's own words for it are of kernels that it cannot find."""
    compute = gpu.open_cuda().identity()["compute"]
    if tuple(int(part) for part in compute.split(".")) < FIRST_FP8:
        text = "this GPU (compute capability %s) has no FP8, which begins with %d.%d: take INT8 Q/DQ" % ((compute, *FIRST_FP8))
        raise AgentError("engine_build", text)


def compatibility(trt, config, order):
    """Plans for other versions or GPUs, on request only: they may be slower."""
    if order.get("version_compatible"):
        member = api.optional(trt.BuilderFlag, "VERSION_COMPATIBLE")
        if member is None:
            raise AgentError("engine_build", "TensorRT %s makes no version-compatible plans" % trt.__version__)
        config.set_flag(member)
    wanted = order.get("hardware_compatible")
    if wanted:
        member = api.optional(api.optional(trt, "HardwareCompatibilityLevel"), wanted)
        if member is None:
            raise AgentError("engine_build", "TensorRT %s has no hardware compatibility %s" % (trt.__version__, wanted))
        config.hardware_compatibility_level = member


def shapes(trt, builder, network, order, limits):
    """An optimisation profile where an input has free dimensions; None where none has.

    The order's `shapes` holds least, usual and most by input; else the batch is 1 to MAX_BATCH and `imgsz` fills in free sides.
    """
    free = [network.get_input(index) for index in range(network.num_inputs)]
    free = [tensor for tensor in free if any(side < 0 for side in tuple(tensor.shape))]
    if not free:
        return None
    profile = builder.create_optimization_profile()
    for tensor in free:
        low, usual, high = bounds(tensor.name, tuple(tensor.shape), order)
        if limits.get("small_batch"):
            high = usual = (1, *tuple(usual[1:]))
            low = (1, *tuple(low[1:]))
        profile.set_shape(tensor.name, trt.Dims(low), trt.Dims(usual), trt.Dims(high))
    return profile


def bounds(name, shape, order):
    """Least, usual and most of one input."""
    asked = (order.get("shapes") or {}).get(name)
    if asked:
        if any(len(one) != len(shape) for one in asked):
            raise AgentError("bad_request", "shapes of %s: %r for a tensor of %d dimensions" % (name, asked, len(shape)))
        return [tuple(one) for one in asked]
    sides = [order.get("imgsz") if side < 0 and index >= 2 else side for index, side in enumerate(shape)]
    if None in sides or any(side < 0 for side in sides[1:]):
        raise AgentError("engine", "a free picture size: say which one (imgsz); %s is %r" % (name, shape))
    rest = tuple(sides[1:])
    batch = sides[0]
    return [(1, *rest), (1, *rest), (MAX_BATCH, *rest)] if batch < 0 else [(batch, *rest)] * 3


def timing_cache(trt, config, path, say):
    """What earlier builds measured; one that is damaged or of another device is left aside, never forced."""
    data = b""
    if path and os.path.exists(path):
        with open(path, "rb") as stream:
            data = stream.read()
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        say({"event": "note", "text": "the timing cache does not fit: starting without"})
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            return None
    return cache


def watch(trt, config, say, stopped, began):
    """Progress where the version reports it (from 10.0 on); returns what must stay referenced."""
    base = api.optional(trt, "IProgressMonitor")
    if base is None:
        return None

    class Monitor(base):
        """Called from several threads. An exception, or any answer but True, cancels the build."""

        def __init__(self):
            base.__init__(self)
            self.phases, self.told = Phases(), (-1.0, 0.0)

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name, step):
            try:
                self.phases.step(phase_name, step)
                found = self.phases.told(time.monotonic() - began)
                share, seconds = self.told
                if found["share"] - share >= TELL_SHARE or found["elapsed_s"] - seconds >= TELL_S:
                    self.told = found["share"], found["elapsed_s"]
                    say(dict(found, event="building", phase=phase_name))
            except Exception:  # noqa: BLE001 - see the class
                pass
            return not stopped()

        def phase_finish(self, phase_name):
            self.phases.finish(phase_name)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


class Phases:
    """How far a build is: nested phases with their steps. Names differ between versions, so they are shown and never matched."""

    def __init__(self):
        self._open, self._share = {}, 0.0

    def start(self, name, parent, steps):
        self._open[name] = [parent, max(1, steps), 0]

    def step(self, name, step):
        if name in self._open:
            self._open[name][2] = max(self._open[name][2], step + 1)
            if self._open[name][0] not in self._open:
                self._share = max(self._share, self._done(name))

    def finish(self, name):
        self._open.pop(name, None)

    def _done(self, name):
        """Share of a phase that is done, with what its inner phases have done of the step under way."""
        _, steps, done = self._open[name]
        inner = [self._done(child) for child, phase in list(self._open.items()) if phase[0] == name and child != name]
        return min(1.0, (done + min(1.0, max(inner or [0.0]))) / steps)

    def told(self, elapsed_s):
        """Share of the outermost phase that is done, seconds gone, and left as far as that can be said."""
        roots = [self._done(name) for name, phase in list(self._open.items()) if phase[0] not in self._open]
        share = max(roots or [self._share])
        left_s = elapsed_s * (1 - share) / share if share > 0.05 else None
        return {
            "share": round(share, 4),
            "elapsed_s": round(elapsed_s, 1),
            "left_s": None if left_s is None else round(left_s, 1),
        }
