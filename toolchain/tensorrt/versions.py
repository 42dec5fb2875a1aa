"""Versions of TensorRT: which ONNX opsets each reads, and how a version written in full is recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolchain.errors import UnknownNameError


@dataclass(frozen=True)
class Version:
    """One minor version; all that is known here is the same for its patches.

    Attributes:
        number: (major, minor).
        first_opset, last_opset: of ONNX, both read.
    """

    number: tuple[int, int]
    first_opset: int
    last_opset: int

    @property
    def name(self) -> str:
        return "{}.{}".format(*self.number)


# Opsets: onnx-tensorrt's docs/operators.md of 8.5, 8.6, 10.0 ("up to 17", "9 to 20"), 10.13 and 10.15 ("9 to 24"). What lies in
# between is taken to read no more than the last one documented before it. 11.x: 24, read by the parser of TensorRT-RTX 1.7.
_OPSETS = (
    [((8, minor), 7, 17) for minor in (5, 6)]
    + [((10, minor), 9, 20) for minor in range(13)]
    + [((10, minor), 9, 24) for minor in range(13, 17)]
    + [((11, minor), 9, 24) for minor in range(5)]
)
VERSIONS: dict[str, Version] = {version.name: version for version in (Version(*row) for row in _OPSETS)}


def get_version(text: str) -> Version:
    """The version that "10.3", "10.3.0" or "10.3.0.30" names.

    Raises:
        UnknownNameError: another one; nothing is known about it, so nothing is said.
    """
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+){0,2}", text.strip())
    name = f"{int(found[1])}.{int(found[2])}" if found else text
    if name not in VERSIONS:
        raise UnknownNameError("TensorRT version", text, VERSIONS)
    return VERSIONS[name]
