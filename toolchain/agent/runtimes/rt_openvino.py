"""OpenVINO, 2023.1 or later. It reads ONNX graphs, float or Q/DQ, and its own pair in one file (toolchain/export/openvino.py):
the engine is the graph, and loading compiles it."""

import functools
import json
import sys
import time
import zipfile

from ..wire import AgentError
from . import split

NAME = "openvino"
PRECISIONS = ("fp32", "fp16", "int8")
PROFILES = True
PRECISION = "INFERENCE_PRECISION_HINT"  # of what is not quantized; left alone, OpenVINO takes bf16 where the CPU has it
THREADS = "INFERENCE_NUM_THREADS"
EXECUTED = "EXECUTED"
FORMAT = 1  # of the file with the pair


def module():
    """OpenVINO, without its telemetry: that would write into the home folder and dial out as soon as it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@functools.lru_cache(maxsize=None)
def core():
    """The one Core of this process, never let go: its CPU plugin gives the thread that loads it a signal stack and unmaps it when
    the Core goes, in whatever thread; the next signal of the first thread then kills the process without a word."""
    return module().Core()


def version():
    openvino = module()
    if not hasattr(openvino, "Core"):
        raise ImportError("openvino.Core is missing: OpenVINO 2023.1 or later is needed")
    return openvino.__version__.split("-")[0]  # without the build


def providers():
    """Devices: CPU, and GPU where there is a driver."""
    return list(core().available_devices)


def load(path, provider, threads, profile_to=None):
    """Compile for low latency of one inference at a time. Options of the provider are OpenVINO's properties."""
    device, asked = split(provider)
    if device not in providers():
        raise AgentError("provider", "%s is not among the devices here: %s" % (device, ", ".join(providers())))
    unknown = sorted(set(asked) - set(core().get_property(device, "SUPPORTED_PROPERTIES")))
    if unknown:
        raise AgentError("provider", "OpenVINO %s does not know %s on %s" % (version(), ", ".join(unknown), device))
    properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", PRECISION: "f32"}
    if device == "CPU":
        properties[THREADS] = threads
    properties.update(asked)
    profiling = {"PERF_COUNT": True} if profile_to is not None else {}
    try:
        compiled = core().compile_model(read(path), device, dict(properties, **profiling))
    except AgentError:
        raise
    except Exception as error:
        if "bad_alloc" in str(error) or "allocate memory" in str(error):
            raise AgentError("out_of_memory", str(error)) from error
        raise AgentError("engine", "OpenVINO %s could not load the engine: %s" % (version(), error)) from error
    check(compiled, device, properties)
    made = Engine(compiled, provider, properties)
    return made if profile_to is None else Profiled(made)


def read(path):
    """The graph of an ONNX file, or of the pair in one file."""
    if not zipfile.is_zipfile(path):
        return core().read_model(path)
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("about.json").decode())
        if about.get("format") != FORMAT:
            raise AgentError("engine", "a pair of format %r, this agent reads %d" % (about.get("format"), FORMAT))
        return core().read_model(archive.read("model.xml"), archive.read("model.bin"))


def check(compiled, device, properties):
    """That it runs where and as it was asked for.

    Raises:
        AgentError: elsewhere or otherwise.
    """
    used = compiled.get_property("EXECUTION_DEVICES")
    used = [used] if isinstance(used, str) else list(used)
    if {name.split(".")[0] for name in used} != {device.split(".")[0]}:
        raise AgentError("provider", "asked for %s, OpenVINO uses %s" % (device, ", ".join(used)))
    for key in (PRECISION, THREADS):
        if key in properties and text(compiled.get_property(key)) != str(properties[key]):
            got = text(compiled.get_property(key))
            raise AgentError("provider", "asked for %s %s, OpenVINO uses %s" % (key, properties[key], got))


def text(value):
    """A property as it is written: f32 of an element type."""
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


def describe(ports):
    import numpy as np

    return [
        {
            "name": port.get_any_name() if port.get_names() else port.get_node().get_friendly_name(),
            "shape": [side.get_length() if side.is_static else None for side in port.get_partial_shape()],
            "type": np.dtype(port.get_element_type().to_dtype()).name,
        }
        for port in ports
    ]


class Engine:
    """The arrays that `run` gives are the request's own: the next run overwrites them."""

    def __init__(self, compiled, provider, properties):
        self.provider, self.version = provider, version()
        self.inputs, self.outputs = describe(compiled.inputs), describe(compiled.outputs)
        self.compiled, self.request = compiled, compiled.create_infer_request()
        self._properties, self._options = properties, None

    @property
    def options(self):
        """Made when asked for: looking through the compiled graph is no part of loading."""
        if self._options is None:
            self._options = {key.lower(): text(value) for key, value in self._properties.items()}
            self._options["convolutions"] = precisions(rows(self.compiled))
        return self._options

    def run(self, array):
        return list(self.request.infer([array], share_inputs=True, share_outputs=True).to_tuple())


class Profiled:
    """An engine whose layers are timed in every run; slower than it is, so never used for latency.

    OpenVINO keeps the average of each layer over all runs so far. The first run, which is cold, is taken off, and each run's
    time is shared out by the averages.
    """

    def __init__(self, made):
        self._engine, self._totals_ms, self._first = made, [], {}
        self.provider, self.version, self.options = made.provider, made.version, made.options
        self.inputs, self.outputs = made.inputs, made.outputs

    def run(self, array):
        started = time.perf_counter()
        outputs = self._engine.run(array)
        self._totals_ms.append(1000.0 * (time.perf_counter() - started))
        if len(self._totals_ms) == 1:
            self._first = {one.node_name: spent_ms(one) for one in self._engine.request.profiling_info}
        return outputs

    def end_profile(self):
        """Every run as the contract wants it; `op` is the layer with its kernel, `provider` the device."""
        known = {row["name"]: row for row in rows(self._engine.compiled)}
        runs = len(self._totals_ms)
        warm = self._totals_ms[1:] or self._totals_ms
        usual_ms, nodes = sum(warm) / len(warm), []
        for one in self._engine.request.profiling_info:
            if not str(one.status).endswith(EXECUTED):
                continue
            ms = spent_ms(one)
            if runs > 1:
                ms = max(0.0, (runs * ms - self._first.get(one.node_name, 0.0)) / (runs - 1))
            row = known.get(one.node_name)
            about = {"name": one.node_name, "op": "%s %s" % (one.node_type, one.exec_type), "provider": self.provider}
            nodes.append((dict(about, shape=row["shape"] if row else None), ms / usual_ms))
        most = max(1.0, sum(share for _, share in nodes))  # averages are whole microseconds
        return [(total, [dict(node, ms=total * share / most) for node, share in nodes]) for total in self._totals_ms]


def spent_ms(one):
    return 1000.0 * one.real_time.total_seconds()


def rows(compiled):
    """Layers of the compiled graph, after OpenVINO's fusions: name, kind, precision it computes in, shape of the first output."""
    found = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        about = {key: plain(value) for key, value in op.get_rt_info().items()}
        shape = op.get_output_partial_shape(0) if op.get_output_size() else None
        found.append(
            {
                "name": op.get_friendly_name(),
                "kind": about.get("layerType", ""),
                "precision": about.get("runtimePrecision", ""),
                "made_of": about.get("originalLayersNames", ""),
                "shape": [side.get_length() for side in shape] if shape is not None and shape.is_static else None,
            }
        )
    return found


def plain(value):
    """What OpenVINO wraps in an object of its own, as text."""
    return str(getattr(value, "value", value))


def precisions(layers):
    """How many convolutions compute in which precision: "i8 57, f32 7"."""
    counts = {}
    for row in layers:
        if "convolution" in row["kind"].lower():
            counts[row["precision"]] = counts.get(row["precision"], 0) + 1
    return ", ".join("%s %d" % (name, counts[name]) for name in sorted(counts, key=lambda name: -counts[name])) or "none"
