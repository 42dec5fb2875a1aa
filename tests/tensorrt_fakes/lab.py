"""A machine that seems to have a GPU and one of nine TensorRTs: a strict fake and a libcudart in the host's memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
VERSIONS: list[str] = json.loads((HERE / "surfaces.json").read_text())["versions"]
NEWEST = VERSIONS[-1]
OWN = ("tensorrt", "behaviour")
PYCUDA = ("pycuda", "pycuda.driver", "pycuda.autoinit")


def build_cudart(folder: Path, *flags: str) -> Path:
    """The stand-in for libcudart. Skips without gcc, unless EDGE_LAB_REQUIRED says that nothing may be skipped."""
    if shutil.which("gcc") is None:
        if os.environ.get("EDGE_LAB_REQUIRED"):
            pytest.fail("gcc is missing: the tests of CUDA's calls need it")
        pytest.skip("no gcc: the stand-in for libcudart cannot be compiled")
    library = folder / f"libcudart{len(flags)}.so"
    if not library.exists():
        subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", *flags, "-o", library, HERE / "cudart.c"], check=True)
    return library


@contextmanager
def fake_machine(patch: pytest.MonkeyPatch, library: Path, version: str = NEWEST) -> Iterator[None]:
    """This process and its children import the fake as `tensorrt`; afterwards this process has forgotten it."""
    patch.setenv("EDGE_FAKE_TENSORRT", version)
    patch.setenv("EDGE_LIBCUDART", str(library))
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])))
    patch.delenv("EDGE_FAKE_TENSORRT_DO", raising=False)
    patch.syspath_prepend(str(HERE))
    for name in OWN:
        sys.modules.pop(name, None)
    try:
        yield
    finally:
        for name in OWN:
            sys.modules.pop(name, None)


@contextmanager
def fake_pycuda(patch: pytest.MonkeyPatch, library: Path) -> Iterator[None]:
    """This process and its children import the fake as `pycuda`, which works on `library`; for how long, see fake_machine."""
    folder = str(HERE / "with_pycuda")
    patch.setenv("FAKE_PYCUDA_LIBRARY", str(library))
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")])))
    patch.syspath_prepend(folder)
    real = {name: sys.modules.pop(name) for name in PYCUDA if name in sys.modules}
    try:
        yield
    finally:
        for name in PYCUDA:
            sys.modules.pop(name, None)
        sys.modules.update(real)


def misbehave(patch: pytest.MonkeyPatch, words: str) -> None:
    """What goes wrong from now on; see behaviour.py."""
    patch.setenv("EDGE_FAKE_TENSORRT_DO", words)
