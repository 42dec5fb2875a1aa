"""Time from a camera's picture to its boxes: letterbox, inference, suppression, with the code that a bundle ships."""

import numpy as np

from . import engines, infer, timing
from .wire import AgentError


def picture_of(job):
    """(height, width, 3) uint8 RGB: the .npy file asked for, or seeded random pixels of the height and width asked for."""
    if job.request.get("picture") is None:
        size = job.need("height", int), job.need("width", int), 3
        return np.random.RandomState(0).randint(0, 256, size=size, dtype=np.uint8)
    picture = np.load(job.need("picture", str), allow_pickle=False)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise AgentError("data", "a picture must be (height, width, 3) uint8, got %r %s" % (picture.shape, picture.dtype))
    return picture


def side_of(array):
    """Side of the square that the engine looks at."""
    height, width = array.shape[2:]
    if height != width:
        raise AgentError("engine", "end to end needs a square input; this one is %d by %d" % (height, width))
    return width


def go(job):
    """One pass of whole detections of one picture.

    Returns:
        what timing.go returns, and in each run the milliseconds of its three parts; how many boxes came out.
    """
    from . import shipped  # the bundle's own infer.py, packed beside this file

    engine, array = timing.loaded(job)
    picture, side, batch = picture_of(job), side_of(array), array.shape[0]
    pad, least = job.need("pad_value", int), job.need("min_score", float)
    iou, most = job.need("iou", float), job.need("max_detections", int)
    boxes = []

    def detect(clock):
        canvas, scale, left, top = shipped.letterbox(picture, side, pad)
        ready = engines.as_input(engine, np.ascontiguousarray(canvas.transpose(2, 0, 1))[None])
        if batch > 1:
            ready = np.repeat(ready, batch, axis=0)
        prepared = clock()
        outputs = engine.run(ready)
        inferred = clock()
        found = shipped.suppress(np.asarray(outputs[0][0], dtype=np.float32), least, iou, most)[0]
        boxes[:] = [(found - (left, top, left, top)) / scale]
        return prepared, inferred

    infer.checked(engine.run(array), batch)
    starts, ends, marks, stopped = timing.one_pass(job, detect)
    prepared, inferred = [mark[0] for mark in marks], [mark[1] for mark in marks]
    return {
        "start_s": [round(start, 7) for start in starts],
        "latency_ms": timing.milliseconds(starts, ends),
        "prepare_ms": timing.milliseconds(starts, prepared),
        "inference_ms": timing.milliseconds(prepared, inferred),
        "suppress_ms": timing.milliseconds(inferred, ends),
        "picture_shape": list(picture.shape),
        "boxes": len(boxes[0]),
        "stopped": stopped,
        "rss_mb": timing.memory_mb(),
    }
