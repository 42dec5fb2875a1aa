"""Load an engine in the runtime asked for, prepare its input, try it once."""

import time

import numpy as np

from . import runtimes
from .wire import AgentError


def open_engine(job, **more):
    """Engine named by the request, and how long loading took; `more` goes to the runtime's `load`.

    Returns:
        engine, load_ms
    """
    path, provider, threads = job.need("path", str), job.need("provider", str), job.need("threads", int)
    runtime = runtimes.find(job.need("runtime", str))
    runtime.version()  # importing the runtime is not part of loading the engine
    if getattr(runtime, "BUILDS", False):
        more.update(cache=job.cache, root=job.root)
    started = time.perf_counter()
    engine = runtime.load(path, provider, threads, **more)
    return engine, 1000.0 * (time.perf_counter() - started)


def input_shape(engine, imgsz):
    """(batch, channels, height, width) of one picture; `imgsz` fills in a free picture size."""
    shape = engine.inputs[0]["shape"]
    if len(engine.inputs) != 1 or len(shape) != 4:
        raise AgentError("engine", "the engine must have one input of four dimensions, it has %r" % (engine.inputs,))
    batch, channels, height, width = [side if isinstance(side, int) else None for side in shape]
    height, width = height or imgsz, width or imgsz
    if height is None or width is None:
        raise AgentError("engine", "a free picture size: say which one (imgsz); the input is %r" % (engine.inputs[0],))
    return batch or 1, channels or 3, height, width


def as_input(engine, images):
    """uint8 pictures -> what the engine's input takes: 0..1 for a floating-point input."""
    kind = np.dtype(engine.inputs[0]["type"])
    if kind == np.uint8:
        return images
    if kind.kind != "f":
        raise AgentError("engine", "the engine's input has type %s; float or uint8 expected" % kind)
    return (images.astype(np.float32) / np.float32(255)).astype(kind)


def random_input(engine, imgsz):
    """One seeded random picture batch in the engine's own type."""
    pixels = np.random.RandomState(0).randint(0, 256, size=input_shape(engine, imgsz), dtype=np.uint8)
    return as_input(engine, pixels)


def first_run(engine, array):
    """Outputs of the first inference and its time, ms."""
    started = time.perf_counter()
    outputs = engine.run(array)
    return outputs, 1000.0 * (time.perf_counter() - started)


def build(job):
    """Load and run an engine once; say what it takes and gives."""
    engine, load_ms = open_engine(job)
    array = random_input(engine, job.request.get("imgsz"))
    outputs, first_ms = first_run(engine, array)
    if not all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"):
        raise AgentError("engine", "the engine's outputs hold NaN or infinite values")
    return {
        "provider": engine.provider,
        "options": engine.options,
        "load_ms": load_ms,
        "first_inference_ms": first_ms,
        "inputs": engine.inputs,
        "outputs": engine.outputs,
        "runtime_version": engine.version,
        "ran_input_shape": list(array.shape),
        "ran_output_shapes": [list(output.shape) for output in outputs],
    }
