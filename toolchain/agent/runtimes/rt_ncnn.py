"""ncnn on CPUs. Its engine is one file: ncnn's pair and what the pair does not say, see toolchain/export/ncnn.py."""

import json
import os
import shutil
import tempfile
import zipfile

from ..wire import AgentError
from . import split

NAME = "ncnn"
PRECISIONS = ("fp32", "fp16", "int8")
CPU = "cpu"
PARAM, WEIGHTS, ABOUT = "model.param", "model.bin", "about.json"
FORMAT = 2
WINOGRAD_43 = "use_winograd43_convolution"
FLOATS = {  # precision of what is not quantized: ncnn's options, which are on by themselves where the CPU has the instructions
    "fp32": (),
    "fp16": ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"),
    "bf16": ("use_bf16_packed", "use_bf16_storage"),
}


def version():
    import ncnn

    return ncnn.__version__


def providers():
    return [CPU]


def load(path, provider, threads):
    """FP32 unless the provider's option `precision` says fp16 or bf16: "cpu:precision=fp16"."""
    import ncnn

    name, asked = split(provider)
    if name != CPU:
        raise AgentError("provider", "%s is not among the providers here: %s" % (name, CPU))
    precision = asked.pop("precision", "fp32")
    if asked or precision not in FLOATS:
        raise AgentError("provider", "%s: the only option is precision, one of %s" % (provider, ", ".join(sorted(FLOATS))))
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = threads
    for key in sum(FLOATS.values(), ()):
        if hasattr(net.opt, key):
            setattr(net.opt, key, key in FLOATS[precision])
        elif key in FLOATS[precision]:
            raise AgentError("provider", "ncnn %s has no option %s" % (version(), key))
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(ABOUT).decode())
            if about["format"] != FORMAT:
                raise AgentError("engine", "an ncnn engine of format %r, this agent reads %d" % (about["format"], FORMAT))
            if about["int8_convolutions"]:
                keep_exact(net)
            open_net(net, archive, os.path.dirname(path))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise AgentError("engine", "not an ncnn engine (`toolchain build --runtime ncnn` makes one): %s" % error) from error
    options = {"num_threads": threads, "precision": precision, "int8_convolutions": about["int8_convolutions"]}
    return Engine(net, provider, about, options)


def keep_exact(net):
    """Without Winograd's F(4, 3): its 32-bit sums hold weights of 6 bits only (ncnn2table), and ours have 8."""
    if not hasattr(net.opt, WINOGRAD_43):
        raise AgentError("provider", "ncnn %s cannot run weights of 8 bits: it has no option %s" % (version(), WINOGRAD_43))
    net.opt.use_int8_inference = True
    setattr(net.opt, WINOGRAD_43, False)


def open_net(net, archive, folder):
    """ncnn reads files only, so the pair lies beside the engine for a moment."""
    temporary = tempfile.mkdtemp(prefix="ncnn-", dir=folder)
    try:
        pair = [archive.extract(name, temporary) for name in (PARAM, WEIGHTS)]
        for read, file in zip((net.load_param, net.load_model), pair):  # noqa: B905 - Python 3.6
            if read(file) != 0:
                raise AgentError("engine", "ncnn %s could not read %s of the engine" % (version(), os.path.basename(file)))
    finally:
        shutil.rmtree(temporary)


class Engine:
    """One picture at a time: ncnn has no batches."""

    def __init__(self, net, provider, about, options):
        self._net, self.provider, self.options, self.version = net, provider, options, version()
        self.inputs, self.outputs = about["inputs"], about["outputs"]
        self._input, self._outputs = about["input_blob"], about["output_blobs"]

    def run(self, array):
        import ncnn

        extractor = self._net.create_extractor()
        extractor.input(self._input, ncnn.Mat(array[0]))
        return [self._output(extractor, *each) for each in zip(self._outputs, self.outputs)]  # noqa: B905 - Python 3.6

    def _output(self, extractor, blob, described):
        import numpy as np

        status, mat = extractor.extract(blob)
        if status != 0:
            raise AgentError("engine", "ncnn could not compute %s (status %d)" % (described["name"], status))
        return np.array(mat)[None]
