"""ONNX Runtime, any of its execution providers. Nothing runs on the CPU unless the CPU's provider was asked for."""

import json

from ..wire import AgentError
from . import split

NAME = "onnxruntime"
PRECISIONS = ("fp32", "fp16", "int8")
PROFILES = True
NODE = "_kernel_time"  # other events of a node are fences, not work
CPU = "CPUExecutionProvider"
STRICT = "session.disable_cpu_ep_fallback"  # a node that the provider cannot run is an error, not left to the CPU
STRICT_SINCE = (1, 16)
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def version():
    import onnxruntime

    return onnxruntime.__version__


def providers():
    import onnxruntime

    return onnxruntime.get_available_providers()


def describe(values):
    return [{"name": value.name, "shape": list(value.shape), "type": TYPES.get(value.type, value.type)} for value in values]


class Engine:
    def __init__(self, session, provider, options):
        self._session, self.provider, self.options, self.version = session, provider, options, version()
        self.inputs, self.outputs = describe(session.get_inputs()), describe(session.get_outputs())
        self._name = self.inputs[0]["name"] if self.inputs else None

    def run(self, array):
        return self._session.run(None, {self._name: array})

    def end_profile(self):
        with open(self._session.end_profiling()) as stream:
            return runs_of(json.load(stream))


def output_shape(args):
    """Shape of the first output of a node; None where it was not recorded."""
    outputs = args.get("output_type_shape") or [{}]
    return next(iter(outputs[0].values()), None)


def runs_of(events):
    """Events of ONNX Runtime's profile (times in whole microseconds) as the contract's runs.

    Nodes inside another node's time (bodies of If and Loop) belong to that node.
    """
    spans = [(e["ts"], -e["dur"], e) for e in events if e["cat"] == "Node" and e["name"].endswith(NODE)]
    spans.sort(key=lambda span: span[:2])
    runs = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["cat"] == "Session" and e["name"] == "model_run")
    found, at = [], 0
    for start, end in runs:
        nodes, busy = [], start
        while at < len(spans) and spans[at][0] < end:
            begins, minus, event = spans[at]
            at += 1
            if begins < busy:
                continue
            busy = begins - minus
            args = event["args"]
            nodes.append(
                {
                    "name": event["name"][: -len(NODE)],
                    "op": args.get("op_name", ""),
                    "provider": args.get("provider"),
                    "shape": output_shape(args),
                    "ms": event["dur"] / 1000.0,
                }
            )
        found.append(((end - start) / 1000.0, nodes))
    return found


def load(path, provider, threads, profile_to=None):
    name, asked = split(provider)
    if name not in providers():
        raise AgentError("provider", "%s is not among the providers here: %s" % (name, ", ".join(providers())))
    if name != CPU and version_numbers() < STRICT_SINCE:
        text = "onnxruntime %s cannot promise that nothing of %s's runs on the CPU: %d.%d or later is needed"
        raise AgentError("provider", text % (version(), name, *STRICT_SINCE))
    options = session_options(name, threads, profile_to)
    try:
        session = open_session(path, options, name, asked)
    except Exception as error:
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise AgentError("out_of_memory", str(error)) from error
        if name != CPU:
            check_provider(path, name, asked)
        raise AgentError("engine", "onnxruntime %s could not load the engine: %s" % (version(), error)) from error
    used = session.get_providers()
    if used[0] != name:
        raise AgentError("provider", "asked for %s, the session uses %s" % (name, ", ".join(used)))
    session.disable_fallback()
    about = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "graph_optimization_level": str(options.graph_optimization_level).split(".")[-1],
        "execution_mode": str(options.execution_mode).split(".")[-1],
    }
    return Engine(session, provider, dict(about, **asked))


def version_numbers():
    return tuple(int(part) for part in version().split(".")[:2])


def session_options(name, threads, profile_to):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if name != CPU:
        options.add_session_config_entry(STRICT, "1")
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_to
    return options


def open_session(path, options, name, asked):
    """With that provider alone; onnxruntime's own second try, with the CPU, is switched off."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, options, providers=[(name, asked)], enable_fallback=0)


def check_provider(path, name, asked):
    """Asked when a provider has failed: is it the provider's fault?

    Raises:
        AgentError: it cannot start, or would leave nodes to the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        used = open_session(path, options, name, asked).get_providers()
    except Exception:  # noqa: BLE001 - neither: what it said at first stands
        return
    if used[0] != name:
        raise AgentError("provider", "%s cannot start (its libraries or its driver); only %s can" % (name, ", ".join(used)))
    text = "%s cannot run every node of the graph: the rest would run on the CPU. A graph of fixed shapes may help"
    raise AgentError("provider", text % name)
