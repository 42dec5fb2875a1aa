"""Run this bundle's detector on pictures: python3 infer.py PICTURE... prints one JSON object a line, one line a picture.

Needs numpy and the runtime the bundle was built for (see manifest.json); for TensorRT that is its Python module and CUDA's
libcudart, or pycuda. Reads .ppm (P6) and .npy ((height, width, 3) uint8 RGB) by itself, other pictures with OpenCV or Pillow,
whichever is there. Every file it uses is checked against manifest.json first.

In a program of yours:

    from infer import Detector, read_image
    found = Detector().detect(read_image("street.jpg"))   # list of {"class", "label", "score", "box": [x1, y1, x2, y2]}
"""

import argparse
import hashlib
import importlib
import json
import os
import re
import sys
import tempfile
import time
import zipfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_CANDIDATES = 30000
GAP = rb"(?:\s|#[^\n]*\n)+"
PPM = re.compile(b"P6" + GAP + rb"(\d+)" + GAP + rb"(\d+)" + GAP + rb"255\s")


class BundleError(Exception):
    """A file of the bundle, or a picture, is not what it must be."""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_image(path):
    """Picture as (height, width, 3) uint8 RGB, turned the way its EXIF data says."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        image = np.load(path, allow_pickle=False)
    elif suffix == ".ppm":
        image = read_ppm(path)
    else:
        image = read_with_library(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise BundleError("%s: (height, width, 3) uint8 expected, got %r %s" % (path, image.shape, image.dtype))
    return image


def read_ppm(path):
    with open(path, "rb") as stream:
        data = stream.read()
    header = PPM.match(data)
    if header is None:
        raise BundleError("%s: not a binary PPM (P6) of 8 bits" % path)
    width, height = int(header.group(1)), int(header.group(2))
    if len(data) - header.end() != height * width * 3:
        raise BundleError("%s: %d bytes of pixels, %d expected" % (path, len(data) - header.end(), height * width * 3))
    return np.frombuffer(data, dtype=np.uint8, offset=header.end()).reshape(height, width, 3)


def read_with_library(path):
    try:
        import cv2
    except ImportError:
        cv2 = None
    if cv2 is not None:
        image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise BundleError("%s: not a readable picture" % path)
        return image[..., ::-1]
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise BundleError("%s: reading this needs OpenCV or Pillow; .ppm and .npy need neither" % path)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def blend_axis(old, new):
    """For each of `new` pixels: its two neighbours among `old` and the weight of the second."""
    at = (np.arange(new) + 0.5) * (old / float(new)) - 0.5
    low = np.floor(at).astype(np.int64)
    return np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1), (at - low).astype(np.float32)


def resize(image, height, width):
    """Bilinear, pixel centres at half; within one grey level of OpenCV's INTER_LINEAR."""
    above, below, part = blend_axis(image.shape[0], height)
    part = part[:, None, None]
    rows = image[above] * (1 - part) + image[below] * part
    left, right, part = blend_axis(image.shape[1], width)
    part = part[None, :, None]
    return np.rint(rows[:, left] * (1 - part) + rows[:, right] * part).astype(np.uint8)


def letterbox(image, imgsz, pad_value):
    """Scale the longer side to `imgsz`, keep the aspect, centre on grey.

    Returns:
        (imgsz, imgsz, 3) uint8, scale, left, top: network pixel = picture pixel * scale + (left, top).
    """
    height, width = image.shape[:2]
    scale = imgsz / float(max(height, width))
    new_w, new_h = [min(max(round(side * scale), 1), imgsz) for side in (width, height)]
    if (new_h, new_w) != (height, width):
        image = resize(image, new_h, new_w)
    left, top = (imgsz - new_w) // 2, (imgsz - new_h) // 2
    canvas = np.full((imgsz, imgsz, 3), pad_value, dtype=np.uint8)
    canvas[top : top + new_h, left : left + new_w] = image
    return canvas, scale, left, top


def overlaps(box, boxes):
    """IoU of one x1, y1, x2, y2 box with (n, 4) of them."""
    size = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inner = np.prod(np.maximum(size, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return inner / np.maximum(np.prod(box[2:] - box[:2]) + areas - inner, 1e-9)


def suppress(output, min_score, iou, most):
    """Non-maximum suppression class by class.

    Args:
        output: (4 + classes, anchors): centre x, centre y, width, height in network pixels, then scores.

    Returns:
        boxes (n, 4) x1, y1, x2, y2, scores (n,), classes (n,); best score first.
    """
    classes, anchors = np.nonzero(output[4:] > min_score)
    scores = output[4:][classes, anchors]
    best = np.argsort(-scores, kind="mergesort")[:MAX_CANDIDATES]
    classes, anchors, scores = classes[best], anchors[best], scores[best]
    centre, half = output[:2, anchors].T, output[2:4, anchors].T / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    alive, kept = np.arange(len(scores)), []
    while len(alive) and len(kept) < most:
        first, alive = alive[0], alive[1:]
        kept.append(first)
        same = classes[alive] == classes[first]
        alive = alive[~(same & (overlaps(boxes[first], boxes[alive]) > iou))]
    return boxes[kept], scores[kept], classes[kept]


def open_onnxruntime(bundle, settings):
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from 1.32 on it writes into the home folder otherwise
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings["threads"], 1
    options.log_severity_level = 3
    provider, more = split(settings["provider"])
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(bundle.engine(), options, providers=[(provider, more)])
    if session.get_providers()[0] != provider:
        raise BundleError("asked for %s, the session uses %s" % (provider, session.get_providers()))
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})[0], onnxruntime.__version__


def open_openvino(bundle, settings):
    sys.modules.setdefault("openvino_telemetry", None)  # it would write into the home folder and dial out
    import openvino

    device, more = split(settings["provider"])
    properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    if device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = settings["threads"]
    core, path = openvino.Core(), bundle.engine()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            model = core.read_model(archive.read("model.xml"), archive.read("model.bin"))
    else:
        model = core.read_model(path)
    request = core.compile_model(model, device, dict(properties, **more)).create_infer_request()
    return lambda array: request.infer([array]).to_tuple()[0], openvino.__version__.split("-")[0]


def open_ncnn(bundle, settings):
    import ncnn

    path = bundle.engine()
    precision = split(settings["provider"])[1].get("precision", "fp32")
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, settings["threads"]
    for kind in ("fp16", "bf16"):
        for key in ("packed", "storage", "arithmetic"):
            key = "use_%s_%s" % (kind, key)
            if hasattr(net.opt, key):
                setattr(net.opt, key, kind == precision)
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        about = json.loads(archive.read("about.json").decode())
        if about["int8_convolutions"]:
            net.opt.use_winograd43_convolution = False  # its sums do not hold weights of 8 bits
        pair = [archive.extract(name, folder) for name in ("model.param", "model.bin")]
        if net.load_param(pair[0]) != 0 or net.load_model(pair[1]) != 0:
            raise BundleError("%s: ncnn %s cannot read it" % (path, ncnn.__version__))

    def run(array):
        extractor = net.create_extractor()
        extractor.input(about["input_blob"], ncnn.Mat(array[0]))
        return np.array(extractor.extract(about["output_blobs"][0])[1])[None]

    return run, ncnn.__version__


def open_tensorrt(bundle, settings):
    """A plan, by the code in plan_loader.zip: the one that was built on this machine, else the one that came with the bundle."""
    conversion, path = bundle.manifest["conversion"], os.path.join(bundle.folder, "built-here.plan")
    if not os.path.exists(path):
        if not conversion["engine"]:
            raise BundleError("no plan was built here yet: `toolchain deploy` builds it")
        path = bundle.checked(conversion["engine"])
        bundle.checked(conversion["about"])
    loader = bundle.checked("plan_loader.zip")
    with zipfile.ZipFile(loader) as archive:
        package = archive.namelist()[0].split("/")[0]
    sys.path.append(loader)
    standalone = importlib.import_module(package + ".trt.standalone")
    try:
        engine, remark = standalone.open_plan(path, settings["provider"])
    except standalone.AgentError as error:
        raise BundleError(str(error))
    if remark:
        sys.stderr.write("note: the plan was %s\n" % remark)

    def run(array):
        try:
            return engine.run(array)[0]
        except standalone.AgentError as error:
            raise BundleError(str(error))

    return run, engine.version


def split(provider):
    """Name and options of "NAME:KEY=VALUE,KEY=VALUE"."""
    name, _, rest = provider.partition(":")
    return name, dict(part.split("=", 1) for part in rest.split(",") if part)


RUNTIMES = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "ncnn": open_ncnn,
    "tensorrt": open_tensorrt,
}  # name: (bundle, settings) -> function from input to output, version


class Detector:
    """The bundle's engine, loaded."""

    def __init__(self, folder=HERE):
        self.folder = folder
        with open(os.path.join(folder, "manifest.json")) as stream:
            self.manifest = json.load(stream)
        with open(self.checked("labels.txt"), encoding="utf-8") as stream:
            self.labels = stream.read().splitlines()
        with open(self.checked("processing.json")) as stream:
            processing = json.load(stream)
        self.input, self.output = processing["input"], processing["output"]
        settings = self.manifest["runtime"]
        if settings["name"] not in RUNTIMES:
            raise BundleError("this infer.py cannot load engines of %s" % settings["name"])
        self._run, version = RUNTIMES[settings["name"]](self, settings)
        if version != settings["version"]:
            text = "note: %s %s here, the bundle was built with %s" % (settings["name"], version, settings["version"])
            sys.stderr.write(text + "\n")

    def engine(self):
        """Path of the engine, checked."""
        return self.checked(self.manifest["engine"])

    def checked(self, name):
        """Path of a file of the bundle whose contents are what the manifest says."""
        path = os.path.join(self.folder, name)
        if sha256(path) != self.manifest["files"][name]["sha256"]:
            raise BundleError("%s was changed: it does not have the hash of manifest.json" % path)
        return path

    def prepare(self, image):
        """(height, width, 3) uint8 RGB -> the engine's input, and where the picture lies in it."""
        canvas, scale, left, top = letterbox(image, self.input["imgsz"], self.input["pad_value"])
        kind = np.dtype(self.input["type"])
        array = np.ascontiguousarray(canvas.transpose(2, 0, 1))[None]
        if kind.kind == "f":
            array = (array.astype(np.float32) / np.float32(255)).astype(kind)
        batch = self.input["batch"]
        return np.repeat(array, batch, axis=0) if batch > 1 else array, (scale, left, top)

    def detect(self, image, min_score=None, times=None):
        """Detections in pixels of the picture, best score first; `times` is filled with milliseconds."""
        clock = time.perf_counter
        marks = [clock()]
        array, (scale, left, top) = self.prepare(image)
        marks.append(clock())
        output = np.asarray(self._run(array)[0], dtype=np.float32)
        marks.append(clock())
        least = self.output["min_score"] if min_score is None else min_score
        boxes, scores, classes = suppress(output, least, self.output["iou"], self.output["max_detections"])
        height, width = image.shape[:2]
        boxes = (boxes - (left, top, left, top)) / scale
        boxes = np.clip(boxes, 0, (width, height, width, height))
        marks.append(clock())
        if times is not None:
            names = ("prepare_ms", "inference_ms", "suppress_ms")
            times.update({name: 1000 * (marks[i + 1] - marks[i]) for i, name in enumerate(names)})
        return [
            {"class": int(c), "label": self.labels[c], "score": float(s), "box": [float(side) for side in box]}
            for c, s, box in zip(classes, scores, boxes)
        ]


def main():
    parser = argparse.ArgumentParser(description="Detect objects in pictures; one JSON object a line.")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE")
    parser.add_argument("--min-score", type=float, help="default: the bundle's own, see processing.json")
    asked = parser.parse_args()
    try:
        started = time.perf_counter()
        detector = Detector()
        load_ms = 1000 * (time.perf_counter() - started)
        for path in asked.pictures:
            times = {"load_ms": load_ms}
            image = read_image(path)
            found = detector.detect(image, asked.min_score, times)
            line = {"picture": path, "height": image.shape[0], "width": image.shape[1], "times": times, "detections": found}
            print(json.dumps(line, allow_nan=False), flush=True)
    except (BundleError, OSError) as error:
        sys.stderr.write("infer.py: %s\n" % error)
        return 2
    except ImportError as error:
        sys.stderr.write("infer.py: ImportError: %s (manifest.json says which runtime the bundle needs)\n" % error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
