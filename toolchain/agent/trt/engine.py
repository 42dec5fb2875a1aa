"""A plan loaded and run: I/O by name, `execute_async_v3`, a CUDA graph where it can be captured, times by events."""

import time

from ..wire import AgentError
from . import api, gpu

WRONG_PLACE = ("serialization", "version tag", "compute", "different version", "platform")  # words of the log: a hint, not more


class Engine:
    """The runtimes' contract, for one plan.

    Attributes:
        device_ms: time of the last inference on the GPU by CUDA events, without the copies there and back.
        layers: rows of the inspector, see layers.read; empty where it does not tell.
    """

    def __init__(self, plan, about, provider, core=None, profiling=False):
        trt = api.module()
        self._trt, self._log = trt, api.new_logger(trt)
        self._cuda = gpu.open_cuda()
        self._runtime = api.started(trt.Runtime, self._log)
        if core is not None:
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._refused()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise AgentError("out_of_memory", "no execution context, most likely for want of memory: %s" % api.tail(self._log))
        self.provider, self.version = provider, trt.__version__
        self.inputs, self.outputs = [], []
        for index in range(self._engine.num_io_tensors):
            self._describe(self._engine.get_tensor_name(index))
        if len(self.inputs) != 1:
            raise AgentError("engine", "the engine must have one input, it has %d" % len(self.inputs))
        self._name = self.inputs[0]["name"]
        self._stream = self._cuda.stream()
        self._shape, self._blocks, self._graph = None, {}, None
        self.device_ms = None
        self.options = {
            "plan_sha256": about["plan_sha256"],
            "precision": about["made_of"]["flags"]["precision"],
            "typing": about.get("typing", "unknown"),
            "flags": " ".join(about.get("builder_flags") or ["none"]),
            "plan_bytes": len(plan),
            "rung": about.get("rung", 0),
            "cuda": self._cuda.name,
            "cuda_graph": "not captured yet",
        }
        if about["made_of"]["flags"].get("typed_from"):
            self.options["typed_from"] = about["made_of"]["flags"]["typed_from"]
        self._profiler = self._profile() if profiling else None

    def _refused(self):
        text = api.tail(self._log) or "TensorRT gives no reason"
        foreign = any(word in text.lower() for word in WRONG_PLACE)
        return AgentError(
            "foreign_plan" if foreign else "engine", "TensorRT %s does not load the plan: %s" % (self._trt.__version__, text)
        )

    def _describe(self, name):
        shape = [side if side >= 0 else None for side in tuple(self._engine.get_tensor_shape(name))]
        is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        if is_input and None in shape:
            low, _, high = [tuple(one) for one in self._engine.get_tensor_profile_shape(name, 0)]
            shape = [low[i] if side is None and low[i] == high[i] else side for i, side in enumerate(shape)]
        kind = api.dtype_of(self._engine.get_tensor_dtype(name), name)
        (self.inputs if is_input else self.outputs).append({"name": name, "shape": shape, "type": kind})

    def run(self, array):
        """Outputs for one input; the next run writes over them."""
        if self._shape != array.shape:
            self._reshape(array)
        block, view = self._blocks[self._name]
        if array.dtype != view.dtype:
            raise AgentError("engine", "the input is %s, the engine takes %s" % (array.dtype, view.dtype))
        view[...] = array
        block.to_device(self._stream)
        self._stream.begin()
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()
        self._stream.end()
        for tensor in self.outputs:
            self._blocks[tensor["name"]][0].to_host(self._stream)
        self._stream.wait()
        self.device_ms = self._stream.between_ms()
        if self._graph is None and self._profiler is None and self.options["cuda_graph"] == "not captured yet":
            self._capture()
        return [self._blocks[tensor["name"]][1] for tensor in self.outputs]

    def _enqueue(self):
        if not self._context.execute_async_v3(self._stream.handle):
            raise AgentError("engine", "TensorRT did not take the inference: %s" % api.tail(self._log))

    def _capture(self):
        """A graph of the inference alone. Where there can be none the launches stay single, and the record says why."""
        try:
            self._graph = self._stream.capture(self._enqueue)
            self.options["cuda_graph"] = "yes"
        except AgentError as error:
            self.options["cuda_graph"] = "no: %s" % error

    def _reshape(self, array):
        """Buffers and addresses for this shape of the input."""
        import numpy as np

        self._release()
        if not self._context.set_input_shape(self._name, self._trt.Dims(array.shape)):
            raise AgentError(
                "engine",
                "shape %r refused for %s: %s" % (array.shape, self._name, api.tail(self._log) or "outside the plan's profile"),
            )
        for tensor in self.inputs + self.outputs:
            name = tensor["name"]
            shape = tuple(self._context.get_tensor_shape(name))
            if any(side < 0 for side in shape):
                raise AgentError("engine", "the size of %s depends on the data: %r" % (name, shape))
            kind = np.dtype(tensor["type"])
            block = self._cuda.block(int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
            self._blocks[name] = (block, block.view(kind, shape))
            if not self._context.set_tensor_address(name, block.device):
                raise AgentError("engine", "the address of %s was refused: %s" % (name, api.tail(self._log)))
        self._shape = array.shape
        if self.options["cuda_graph"] == "yes":
            self.options["cuda_graph"] = "not captured yet"

    def _release(self):
        """Free what belongs to the shape before."""
        self._shape = None
        if self._graph is not None:
            self._graph.free()
            self._graph = None
        for block, _ in self._blocks.values():
            block.free()
        self._blocks = {}

    def inspector_json(self):
        """The engine's own account of its layers."""
        inspector = self._engine.create_engine_inspector()
        return inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)

    def _profile(self):
        trt = self._trt
        base = trt.IProfiler

        class Profiler(base):
            """Layers in the order they were reported, since `take`."""

            def __init__(self):
                base.__init__(self)
                self.layers = []

            def report_layer_time(self, layer_name, ms):
                self.layers.append((layer_name, ms))

            def take(self):
                taken, self.layers = self.layers, []
                return taken

        profiler = Profiler()
        self._context.profiler = profiler
        return profiler

    def profiled_run(self, array):
        """One inference: its time in ms, and (layer, ms) in order."""
        began = time.perf_counter()
        self.run(array)
        return 1000.0 * (time.perf_counter() - began), self._profiler.take()
