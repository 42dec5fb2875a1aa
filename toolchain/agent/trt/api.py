"""What both halves need of TensorRT's Python API: the module, a logger that remembers, and its traps translated."""

from ..wire import AgentError

# what this agent cannot do without; 8.2 (JetPack 4) has none of it
NEEDED = (
    ("ICudaEngine", "num_io_tensors"),
    ("ICudaEngine", "get_tensor_name"),
    ("IExecutionContext", "set_tensor_address"),
    ("IExecutionContext", "execute_async_v3"),
    ("IBuilderConfig", "set_memory_pool_limit"),
)
NUMPY = {  # by DataType's name; trt.nptype() fails on 8.5 with numpy 1.24 and later
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
KEPT = 60  # lines of the log
NO_DRIVER = "no usable CUDA driver: TensorRT cannot start here"


def module():
    """TensorRT.

    Raises:
        ImportError: it is not installed.
        AgentError: it is too old.
    """
    import tensorrt

    lacking = ["%s.%s" % pair for pair in NEEDED if not hasattr(getattr(tensorrt, pair[0], None), pair[1])]
    if lacking:
        text = "TensorRT %s lacks %s; 8.5 (JetPack 5.1) or later is needed" % (tensorrt.__version__, ", ".join(lacking))
        raise AgentError("old_runtime", text)
    return tensorrt


def optional(owner, name):
    """A member that only some versions have, or None."""
    return getattr(owner, name, None)


def name_of(member):
    """FLOAT of DataType.FLOAT, on every version."""
    return str(member).split(".")[-1]


def dtype_of(kind, tensor):
    """numpy's name for a tensor's type.

    Raises:
        AgentError: numpy has none.
    """
    name = name_of(kind)
    if name not in NUMPY:
        raise AgentError("engine", "%s has type %s, which numpy does not have: make it FP32 in the graph" % (tensor, name))
    return NUMPY[name]


def new_logger(trt):
    """A logger whose `lines` are the last it was told, `problems` those of errors and warnings among them."""

    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines, self.problems = [], []

        def log(self, severity, msg):
            level = name_of(severity)
            if level == "VERBOSE":
                return
            for kept in [self.lines] + ([self.problems] if level in ("INTERNAL_ERROR", "ERROR", "WARNING") else []):
                kept.append("[%s] %s" % (level, msg))
                del kept[:-KEPT]

    return Log()


def started(make, log):
    """A Builder or Runtime; pybind11 makes a TypeError of a factory that gave NULL, which is what no driver looks like."""
    try:
        return make(log)
    except TypeError as error:
        raise AgentError("no_cuda", "%s (%s)" % (NO_DRIVER, tail(log) or error)) from error


def tail(log, lines=8):
    """The end of what went wrong, for an error."""
    return "\n".join((log.problems or log.lines)[-lines:])


def dla_cores(trt, log):
    """Number of DLA cores that this TensorRT can use here."""
    return int(started(trt.Runtime, log).num_DLA_cores)
