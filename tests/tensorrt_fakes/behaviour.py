"""What the strict fake does once a call has passed its checks.

EDGE_FAKE_TENSORRT_DO, words apart by blanks, makes it misbehave:

    no-driver          Builder and Runtime cannot be made
    build=none         no plan, no reason             build=memory:N   no plan above N bytes of workspace, the log speaks of
    memory build=kill:N       killed (signal 9) above N      build=crash      signal 6
    build=hang         only a request to stop ends it
    deserialize=none   context=none   enqueue=false   shape=false   address=false   capture=fail
    timing=foreign     set_timing_cache refuses what is not new
    output=INT64, BF16 the first output is of this type
    dla=N              so many DLA cores
    silent             a progress monitor is never called
"""

import ctypes
import json
import os
import signal
import time

import numpy as np
import onnx
import tensorrt as trt

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
KINDS = {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Conv": "CONVOLUTION"}
DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
MAGIC = b"ftrt"


def asked(word):
    """Value of one word of EDGE_FAKE_TENSORRT_DO, "" where it stands alone, None where it is not there."""
    for one in os.environ.get("EDGE_FAKE_TENSORRT_DO", "").split():
        name, _, value = one.partition("=")
        if name == word:
            return value
    return None


def numbers():
    return tuple(int(part) for part in trt.__version__.split("."))


def new(cls, **state):
    """An object that only the library makes."""
    made = object.__new__(getattr(trt, cls))
    for name, value in state.items():
        object.__setattr__(made, "_" + name, value)
    return made


def keep(owner, **state):
    for name, value in state.items():
        object.__setattr__(owner, "_" + name, value)


def call(owner, cls, member, given):
    function = globals().get(f"{cls}_{member.strip('_')}")
    if function is None:
        raise NotImplementedError(f"the fake does not know what {cls}.{member} does")
    return function(owner, **given)


def get(owner, cls, member):
    function = globals().get(f"{cls}_get_{member}")
    if function is not None:
        return function(owner)
    return owner.__dict__.get("_" + member)


def put(owner, cls, member, value):
    object.__setattr__(owner, "_" + member, value)


def tell(logger, level, text):
    logger.log(getattr(trt.ILogger.Severity, level), text)


# -- user classes: the library only keeps them


def ILogger_init(owner):
    pass


ILogger_log = IProfiler_init = IProgressMonitor_init = IInt8EntropyCalibrator2_init = IInt8MinMaxCalibrator_init = ILogger_init


def Dims_init(owner, shape=()):
    keep(owner, sides=tuple(int(side) for side in shape))


# -- building


def Builder_init(owner, logger):
    if asked("no-driver") is not None:
        tell(logger, "ERROR", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    keep(owner, logger=logger)


def Builder_create_network(owner, flags=0):
    names = {name for name, one in trt.NetworkDefinitionCreationFlag.__members__.items() if flags >> int(one) & 1}
    explicit = "EXPLICIT_BATCH" in names or numbers()[0] >= 10
    return new("INetworkDefinition", explicit=explicit, strong="STRONGLY_TYPED" in names or numbers()[0] >= 11, model=None)


def Builder_create_builder_config(owner):
    return new("IBuilderConfig", flags=set(), limits={}, profiles=[], sources=63, timing=None, progress_monitor=None)


def Builder_create_optimization_profile(owner):
    return new("IOptimizationProfile", shapes={})


def IOptimizationProfile_set_shape(owner, input, min, opt, max):
    owner._shapes[input] = [list(one) for one in (min, opt, max)]


def OnnxParser_init(owner, network, logger):
    keep(owner, network=network, logger=logger, errors=[])


def OnnxParser_parse_from_file(owner, model):
    network = owner._network
    if not network._explicit:
        tell(owner._logger, "ERROR", "The network must be created with the EXPLICIT_BATCH flag")
        return False
    try:
        graph = onnx.load(model)
    except Exception as error:  # noqa: BLE001 - whatever the file is
        owner._errors.append(new("ParserError", code="MODEL_DESERIALIZE_FAILED", desc=str(error)[:100], node=-1, about=("", "")))
        return False
    for index, node in enumerate(graph.graph.node):
        if node.op_type.startswith("My") or node.op_type.startswith("QLinear"):
            desc = f"Plugin not found, are the plugin name, version, and namespace correct? {node.op_type}"
            owner._errors.append(
                new("ParserError", code="UNSUPPORTED_NODE", desc=desc, node=index, about=(node.name, node.op_type))
            )
        if node.op_type == "QuantizeLinear" and any(
            i.name == node.input[2] and onnx.numpy_helper.to_array(i).any() for i in graph.graph.initializer
        ):
            desc = "Non-zero zero point is not supported."
            owner._errors.append(new("ParserError", code="INVALID_NODE", desc=desc, node=index, about=(node.name, node.op_type)))
    keep(network, model=graph, bytes=graph.SerializeToString())
    return not owner._errors


def OnnxParser_get_num_errors(owner):
    return len(owner._errors)


def OnnxParser_get_error(owner, index):
    return owner._errors[index]


def ParserError_code(owner):
    return getattr(trt.ErrorCode, owner._code)


def ParserError_desc(owner):
    return owner._desc


def ParserError_node(owner):
    return owner._node


def ParserError_node_name(owner):
    return owner._about[0]


def ParserError_node_operator(owner):
    return owner._about[1]


def INetworkDefinition_get_num_layers(owner):
    return len(owner._model.graph.node)


def INetworkDefinition_get_layer(owner, index):
    node = owner._model.graph.node[index]
    dtype = "FLOAT"
    if node.op_type == "QuantizeLinear":
        zero = next(tensor for tensor in owner._model.graph.initializer if tensor.name == node.input[2])
        dtype = "FP8" if zero.data_type == onnx.TensorProto.FLOAT8E4M3FN else "INT8"
    return new("ILayer", type=getattr(trt.LayerType, KINDS.get(node.op_type, "ELEMENTWISE")), dtype=dtype)


def ILayer_get_output(owner, index):
    return new("ITensor", dtype=getattr(trt.DataType, owner._dtype))


def INetworkDefinition_get_num_inputs(owner):
    return len(owner._model.graph.input)


def INetworkDefinition_get_input(owner, index):
    value = owner._model.graph.input[index]
    sides = [side.dim_value if side.HasField("dim_value") else -1 for side in value.type.tensor_type.shape.dim]
    return new("ITensor", name=value.name, shape=trt.dims(sides))


def IBuilderConfig_set_memory_pool_limit(owner, pool, pool_size):
    if pool_size < 0:
        raise TypeError("pool_size must be an unsigned number")
    owner._limits[pool.name] = pool_size


def IBuilderConfig_set_flag(owner, flag):
    owner._flags.add(flag.name)


def IBuilderConfig_get_tactic_sources(owner):
    return owner._sources


def IBuilderConfig_set_tactic_sources(owner, tactic_sources):
    keep(owner, sources=tactic_sources)
    return True


def IBuilderConfig_add_optimization_profile(owner, profile):
    owner._profiles.append(profile)
    return len(owner._profiles) - 1


def IBuilderConfig_create_timing_cache(owner, serialized_timing_cache):
    data = bytes(serialized_timing_cache)
    return None if data.startswith(b"damaged") else new("ITimingCache", data=data)


def IBuilderConfig_set_timing_cache(owner, cache, ignore_mismatch):
    assert ignore_mismatch is False, "a foreign cache may never be forced"
    if asked("timing") == "foreign" and cache._data:
        return False
    keep(owner, timing=cache)
    return True


def ITimingCache_serialize(owner):
    return new("IHostMemory", data=b"timing " + trt.__version__.encode() + owner._data[-8:])


def Builder_build_serialized_network(owner, network, config):
    said, log = asked("build"), owner._logger
    what, _, limit = (said or "").partition(":")
    workspace = config._limits["WORKSPACE"]
    quantized = any(node.op_type == "QuantizeLinear" for node in network._model.graph.node)
    if network._strong and config._flags & {"FP16", "INT8", "BF16", "FP8"}:
        tell(log, "ERROR", "API Usage Error: precision flags are not allowed in a strongly typed network")
        return None
    if quantized and not network._strong and "INT8" not in config._flags:
        tell(log, "ERROR", "Networks with Q/DQ layers must be built with INT8 enabled")
        return None
    inputs = [INetworkDefinition_get_input(network, i) for i in range(len(network._model.graph.input))]
    if any(side < 0 for tensor in inputs for side in tensor.shape) and not config._profiles:
        tell(log, "ERROR", "Network has dynamic or shape inputs, but no optimization profile has been defined.")
        return None
    if what == "none" or (what == "memory" and workspace > int(limit)):
        tell(log, "ERROR", "Could not find any implementation for node conv1: insufficient memory" if limit else "Internal Error")
        return None
    if what == "kill" and workspace > int(limit):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        os.abort()
    calibrate(config, inputs, quantized)
    if not progress(config._progress_monitor, hang=what == "hang"):
        return None
    profile = config._profiles[0]._shapes if config._profiles else {}
    about = {
        "version": trt.__version__,
        "profile": profile,
        "flags": sorted(config._flags),
        "limits": config._limits,
        "level": config.__dict__.get("_builder_optimization_level"),
        "strong": network._strong,
        "device": getattr(config.__dict__.get("_default_device_type"), "name", "GPU"),
    }
    text = json.dumps(about).encode() + b"\n"
    numbers_ = bytes(((*numbers(), 0, 0))[:4])
    return new("IHostMemory", data=MAGIC + bytes(20) + numbers_ + text + network._bytes)


def calibrate(config, inputs, quantized):
    made = config.__dict__.get("_int8_calibrator")
    if "INT8" not in config._flags or made is None or quantized:
        return
    cache = made.read_calibration_cache()
    if cache is not None:
        return
    batch, seen = made.get_batch_size(), 0
    size = batch * int(np.prod(list(inputs[0].shape)[1:])) * 4
    while (addresses := made.get_batch([tensor.name for tensor in inputs])) is not None:
        assert all(isinstance(address, int) for address in addresses)
        values = np.frombuffer(ctypes.string_at(addresses[0], size), dtype=np.float32)
        assert 0 <= values.min() <= values.max() <= 1
        seen += batch
    assert seen, "the calibrator gave no pictures"
    made.write_calibration_cache(b"TRT-8502-EntropyCalibration2\nimages: 3c010a14\n")


def progress(monitor, hang):
    """Nested phases as a real build has them; False where the monitor cancelled it."""
    if monitor is None or asked("silent") is not None:
        time.sleep(60 if hang else 0)
        return True
    monitor.phase_start("Building Engine", None, 2)
    for outer in range(2):
        monitor.phase_start(f"Tactics {outer}", "Building Engine", 3)
        for step in range(3):
            while True:
                if monitor.step_complete(f"Tactics {outer}", step) is not True:
                    return False
                if not hang:
                    break
                time.sleep(0.02)
        monitor.phase_finish(f"Tactics {outer}")
        if monitor.step_complete("Building Engine", outer) is not True:
            return False
    monitor.phase_finish("Building Engine")
    return True


# -- running


def Runtime_init(owner, logger):
    if asked("no-driver") is not None:
        tell(logger, "ERROR", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    keep(owner, logger=logger, DLA_core=-1)


def Runtime_get_num_DLA_cores(owner):
    return int(asked("dla") or 0)


def Runtime_deserialize_cuda_engine(owner, serialized_engine):
    data = bytes(serialized_engine)
    if asked("deserialize") == "none" or data[:4] != MAGIC:
        tell(owner._logger, "ERROR", "Serialization assertion magicTagRead == kMAGIC_TAG failed: Magic tag does not match")
        return None
    text, _, graph = data[28:].partition(b"\n")
    about = json.loads(text)
    if about["version"] != trt.__version__:
        tell(owner._logger, "ERROR", "The engine plan file is not compatible with this version of TensorRT")
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tensors = {value.name: (True, value) for value in session.get_inputs()}
    tensors.update({value.name: (False, value) for value in session.get_outputs()})
    return new(
        "ICudaEngine", session=session, tensors=tensors, profile=about["profile"], logger=owner._logger, device=about["device"]
    )


def ICudaEngine_get_num_io_tensors(owner):
    return len(owner._tensors)


def ICudaEngine_get_tensor_name(owner, index):
    return list(owner._tensors)[index]


def ICudaEngine_get_tensor_mode(owner, name):
    return trt.TensorIOMode.INPUT if owner._tensors[name][0] else trt.TensorIOMode.OUTPUT


def numpy_type(value):
    return {"float": "float32", "double": "float64"}.get(value.type[7:-1], value.type[7:-1])


def ICudaEngine_get_tensor_dtype(owner, name):
    is_input, value = owner._tensors[name]
    other = asked("output")
    if not is_input and other:
        return getattr(trt.DataType, other)
    return getattr(trt.DataType, DTYPES[numpy_type(value)])


def ICudaEngine_get_tensor_shape(owner, name):
    return trt.dims(side if isinstance(side, int) else -1 for side in owner._tensors[name][1].shape)


def ICudaEngine_get_tensor_profile_shape(owner, name, profile_index):
    return [trt.dims(one) for one in owner._profile[name]]


def ICudaEngine_create_execution_context(owner, *_, **__):
    if asked("context") == "none":
        tell(owner._logger, "ERROR", "Requested amount of GPU memory could not be allocated")
        return None
    cuda = ctypes.CDLL(os.environ["EDGE_LIBCUDART"])
    return new("IExecutionContext", engine=owner, addresses={}, shapes={}, profiler=None, cuda=cuda, work=[])


def ICudaEngine_create_engine_inspector(owner):
    return new("EngineInspector", engine=owner)


def layer_names(engine):
    return [f"{kind} {name}" for kind, name in (("Conv", "a"), ("Reformat", "b"), ("Conv", "c"))]


def EngineInspector_get_engine_information(owner, format):
    assert format == trt.LayerInformationFormat.JSON
    layers = []
    for name in layer_names(owner._engine):
        outputs = [{"Name": name, "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Row major linear FP16 format"}]
        if numbers()[0] >= 11:
            outputs = [{"Name": name, "Dimensions": [1, 8, 4, 4], "Format": "kLINEAR", "Datatype": "FP16"}]
        layers.append({"Name": name, "LayerType": name.split()[0], "Inputs": [], "Outputs": outputs})
    names = list(owner._engine._tensors)
    eleven = numbers()[0] >= 11
    return json.dumps({"Layers": layers, **({"I/O Tensors": [{"Name": n} for n in names]} if eleven else {"Bindings": names})})


def IExecutionContext_set_input_shape(owner, name, shape):
    sides = list(shape)
    low, _, high = owner._engine._profile.get(name, [sides] * 3)
    fixed = list(ICudaEngine_get_tensor_shape(owner._engine, name))
    fits = len(sides) == len(fixed) and all(a <= side <= b for a, side, b in zip(low, sides, high, strict=True))
    fits = fits and all(want in (-1, side) for want, side in zip(fixed, sides, strict=True))
    if asked("shape") == "false" or not fits:
        return False
    owner._shapes[name] = sides
    return True


def IExecutionContext_get_tensor_shape(owner, name):
    if name in owner._shapes:
        return trt.dims(owner._shapes[name])
    feeds = {n: np.zeros(s, numpy_type(owner._engine._tensors[n][1])) for n, s in owner._shapes.items()}
    return trt.dims(owner._engine._session.run([name], feeds)[0].shape)


def IExecutionContext_set_tensor_address(owner, name, memory):
    if asked("address") == "false":
        return False
    owner._addresses[name] = memory
    return True


def IExecutionContext_execute_async_v3(owner, stream_handle):
    if asked("enqueue") == "false" or (asked("capture") == "fail" and owner._work):
        tell(owner._logger if hasattr(owner, "_logger") else owner._engine._logger, "ERROR", "enqueue refused")
        return False
    function = HOST_FUNCTION(lambda _: run(owner))
    owner._work.append(function)
    owner._cuda.cudaLaunchHostFunc.argtypes = [ctypes.c_void_p, HOST_FUNCTION, ctypes.c_void_p]
    if owner._cuda.cudaLaunchHostFunc(stream_handle, function, None):
        return False
    if owner._profiler is not None:
        for index, name in enumerate(layer_names(owner._engine)):
            owner._profiler.report_layer_time(name, 1e-6 * (index + 1))
    return True


def run(context):
    """The graph in ONNX Runtime, from and to the addresses."""
    feeds = {}
    for name, sides in context._shapes.items():
        kind = np.dtype(numpy_type(context._engine._tensors[name][1]))
        data = ctypes.string_at(context._addresses[name], int(np.prod(sides)) * kind.itemsize)
        feeds[name] = np.frombuffer(data, dtype=kind).reshape(sides)
    names = [value.name for value in context._engine._session.get_outputs()]
    for name, found in zip(names, context._engine._session.run(names, feeds), strict=True):
        if asked("output") == "INT64":
            found = found.astype(np.int64)
        data = np.ascontiguousarray(found).tobytes()
        ctypes.memmove(context._addresses[name], data, len(data))
