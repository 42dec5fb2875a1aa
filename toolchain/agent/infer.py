"""Run an engine over a set of pictures and keep the candidate boxes."""

import time

import numpy as np

from . import engines, files
from .wire import AgentError

MIN_SCORE = 0.001
FREE_BATCH = 8
PROGRESS_EVERY_S = 0.5


def candidates(output):
    """(n, 4 + classes, anchors) -> rows (m, 4 + classes) of the anchors above MIN_SCORE, and how many each picture has."""
    by_anchor = output.transpose(0, 2, 1)
    keep = by_anchor[..., 4:].max(axis=2) > MIN_SCORE
    return by_anchor[keep].astype(np.float32), keep.sum(axis=1).astype(np.int64)


def open_images(path, engine):
    """The set as (n, 3, height, width) uint8, on disk until it is read, and the engine's batch size."""
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise AgentError("data", "pictures must be (n, 3, size, size) uint8, got %r %s" % (images.shape, images.dtype))
    batch, channels, height, width = engines.input_shape(engine, images.shape[2])
    if images.shape[1:] != (channels, height, width):
        raise AgentError("data", "pictures are %r, the engine takes %r" % (images.shape[1:], (channels, height, width)))
    free = not isinstance(engine.inputs[0]["shape"][0], int)
    return images, FREE_BATCH if free else batch, free


def checked(outputs, count):
    """The decoded output of `count` pictures as (count, 4 + classes, anchors)."""
    output = outputs[0]
    if output.ndim != 3 or output.shape[1] < 5 or output.shape[0] < count:
        raise AgentError("engine", "the first output must be (batch, 4 + classes, anchors), got %r" % (output.shape,))
    if not np.isfinite(output).all():
        raise AgentError("engine", "the engine's output holds NaN or infinite values")
    return output[:count]


def infer(job):
    """Pictures `start` to `stop` of the set through the engine, which stays loaded for the next part.

    Rows and counts go into an .npz, named by its hash, that any later session can fetch.
    """
    engine, load_ms = loaded(job)
    images, batch, free = open_images(job.need("images", str), engine)
    first, stop = job.need("start", int), job.need("stop", int)
    if not 0 <= first < stop <= len(images):
        raise AgentError("bad_request", "pictures %d to %d of %d" % (first, stop, len(images)))
    rows, counts, seconds, spoke = [], [], 0.0, time.monotonic()
    for start in range(first, stop, batch):
        chunk = np.asarray(images[start : min(start + batch, stop)])
        if len(chunk) < batch and not free:  # a fixed batch is filled up with grey; the extra outputs are dropped
            fill = np.full((batch - len(chunk), *chunk.shape[1:]), 114, dtype=np.uint8)
            padded = np.concatenate([chunk, fill])
        else:
            padded = chunk
        array = engines.as_input(engine, padded)
        began = time.perf_counter()
        outputs = engine.run(array)
        seconds += time.perf_counter() - began
        some, each = candidates(checked(outputs, len(chunk)))
        rows.append(some)
        counts.append(each)
        if time.monotonic() - spoke > PROGRESS_EVERY_S:
            spoke = time.monotonic()
            job.event("progress", done=start + len(chunk), total=len(images))
    path = files.new_output(job, ".npz")
    np.savez(path, rows=np.concatenate(rows), counts=np.concatenate(counts))
    about = {"images": stop - first, "batch": batch, "seconds": seconds, "load_ms": load_ms}
    return dict(about, provider=engine.provider, runtime_version=engine.version, **files.publish(path))


def loaded(job):
    """The engine, loaded once for all parts, and how long that took."""
    key = [job.request.get(name) for name in ("path", "runtime", "provider", "threads")]
    if job.memory.get("infer", (None,))[0] != key:
        job.memory["infer"] = (key, *engines.open_engine(job))
    return job.memory["infer"][1:]
