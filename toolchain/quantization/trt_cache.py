"""Ranges as the calibration cache of TensorRT's implicit INT8 (8.x and 10.x; 11 has none).

    TRT-8503-EntropyCalibration2
    images: 3c010a14

One line a tensor: the step of its symmetric INT8 scale, largest magnitude / 127, as the big-endian hex digits of a float32.
The format is not documented by NVIDIA; it is that of the files its calibrators write. Not tried on a device by this project.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

import numpy as np

from toolchain.errors import QuantizationError, UsageError
from toolchain.quantization.ranges import Range

VERSION = "8.5.3"  # in the first line unless the device's is given
ALGORITHM = "EntropyCalibration2"
LARGEST = 127


def trt_cache(ranges: Mapping[str, Range], version: str = VERSION) -> str:
    """Text of the cache file.

    Args:
        ranges: tensor -> (low, high).
        version: of the TensorRT that will read it, as 8.5.3 or 10.3.0; it looks at the first line.

    Raises:
        UsageError: not a version, or one without implicit INT8.
        QuantizationError: a tensor's name would break the file's lines.
    """
    lines = [f"TRT-{_number(version)}-{ALGORITHM}"]
    for name, (low, high) in ranges.items():
        if "\n" in name or ": " in name:
            raise QuantizationError("a tensor's name does not fit TensorRT's calibration cache", got=repr(name))
        step = max(max(abs(low), abs(high)) / LARGEST, float(np.finfo(np.float32).tiny))  # a tensor that was zero throughout
        lines.append(f"{name}: {struct.pack('>f', step).hex()}")
    return "\n".join(lines) + "\n"


def _number(version: str) -> int:
    """8.5.3 -> 8503, 10.3.0 -> 100300: NV_TENSORRT_VERSION of NvInferVersion.h."""
    if not (found := re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\.\d+)?", version)):
        raise UsageError("not a version of TensorRT", got=version, fix="three numbers, as 8.5.3 or 10.3.0")
    major, minor, patch = (int(part) for part in found.groups()[:3])
    if not 8 <= major <= 10:
        fix = "TensorRT 11 takes the Q/DQ graph as it is"
        raise UsageError("calibration caches are for TensorRT 8 to 10", got=version, fix=fix)
    return major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
