"""The agent runs on old boards: Python 3.6 syntax, and nothing but the standard library, numpy and the runtimes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import toolchain.agent

FOLDER = Path(toolchain.agent.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
ALLOWED = {"numpy", "onnxruntime", "tensorrt", "openvino", "ncnn"}
OPTIONAL = {"trt/pycuda_driver.py": {"pycuda", "pycuda.driver"}}  # that file alone, and never pycuda.autoinit


def test_python_36_is_enough() -> None:
    pytest.importorskip("vermin")
    found = subprocess.run(
        [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.6-", "--no-tips", "--violations", str(FOLDER)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports_only_what_a_board_has(path: Path) -> None:
    optional = OPTIONAL.get(path.relative_to(FOLDER).as_posix(), set())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in modules_of(node):
            known = name in optional or name.split(".")[0] in ALLOWED | set(sys.stdlib_module_names)
            assert known, f"{path.name} imports {name}"


def test_runtimes_are_imported_only_when_used() -> None:
    code = (
        "import sys, toolchain.agent.main, toolchain.agent.probe, toolchain.agent.runtimes as r\n"
        "[r.find(n) for n in r.names()]\n"
        "assert 'onnxruntime' not in sys.modules and 'tensorrt' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
