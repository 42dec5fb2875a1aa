"""ONNX Runtime, any of its execution providers."""

from ..wire import AgentError

NAME = "onnxruntime"
PRECISIONS = ("fp32", "fp16", "int8")
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


def load(path, provider, threads):
    import onnxruntime

    if provider not in providers():
        raise AgentError("provider", "%s is not among the providers here: %s" % (provider, ", ".join(providers())))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    except Exception as error:
        if "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise AgentError("out_of_memory", str(error)) from error
        raise AgentError("engine", "onnxruntime %s could not load the engine: %s" % (version(), error)) from error
    used = session.get_providers()
    if used[0] != provider:
        raise AgentError("provider", "asked for %s, the session uses %s" % (provider, ", ".join(used)))
    session.disable_fallback()
    return Engine(
        session,
        used[0],
        {
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            "graph_optimization_level": str(options.graph_optimization_level).split(".")[-1],
            "execution_mode": str(options.execution_mode).split(".")[-1],
        },
    )
