"""Every name of TensorRT in the agent's sources exists in all nine versions, or is asked for as one that may be absent."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import toolchain.agent
from tests.tensorrt_fakes import lab

SOURCES = sorted((Path(toolchain.agent.__file__).parent / "trt").glob("*.py"))
SOURCES.append(Path(toolchain.agent.__file__).parent / "runtimes" / "rt_tensorrt.py")
CLASSES = json.loads((lab.HERE / "surfaces.json").read_text())["classes"]
EVERYWHERE = "Y" * len(lab.VERSIONS)
ROLES = {  # what the sources call an object of which class
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "self._runtime": "Runtime", "self._engine": "ICudaEngine", "self._context": "IExecutionContext", "inspector":
    "EngineInspector", "timing": "ITimingCache",
}  # fmt: skip
GUARDED = {  # asked for with hasattr() or only where the class that it needs is there
    ("IBuilderConfig", "builder_optimization_level"), ("IBuilderConfig", "max_aux_streams"),
    ("IBuilderConfig", "progress_monitor"), ("IBuilderConfig", "int8_calibrator"),
    ("IBuilderConfig", "hardware_compatibility_level"),
}  # fmt: skip


def versions_of(cls: str, member: str) -> str:
    """Y or - for each version."""
    masks = CLASSES.get(cls, {}).get(member, {}).values()
    return "".join("Y" if any(mask[i] == "Y" for mask in masks) else "-" for i in range(len(lab.VERSIONS)))


def whole(cls: str) -> str:
    masks = [versions_of(cls, member) for member in CLASSES[cls]]
    return "".join("Y" if any(mask[i] == "Y" for mask in masks) else "-" for i in range(len(lab.VERSIONS)))


def uses(path: Path) -> list[tuple[int, str, str]]:
    """(line, class, member) of every attribute; the class itself has the member ""."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        base = ast.unparse(node.value)
        base = "trt" + base[len("self._trt") :] if base.startswith("self._trt") else base
        if base == "trt":
            found.append((node.lineno, node.attr, ""))
        elif base.startswith("trt."):
            found.append((node.lineno, base[len("trt.") :], node.attr))
        elif base in ROLES and path.name in ("build_net.py", "engine.py"):
            found.append((node.lineno, ROLES[base], node.attr))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_names(path: Path) -> None:
    for line, cls, member in uses(path):
        where = f"{path.name}:{line}: {cls}.{member}"
        if member == "":
            assert cls == "__version__" or (cls in CLASSES and whole(cls) == EVERYWHERE), where
        elif (cls, member) not in GUARDED and member != "__init__":
            assert versions_of(cls, member) == EVERYWHERE, where


def test_the_check_sees_something() -> None:
    seen = {(cls, member) for path in SOURCES for _, cls, member in uses(path)}
    assert len(seen) > 50
    assert {
        ("IExecutionContext", "execute_async_v3"),
        ("Builder", "build_serialized_network"),
        ("MemoryPoolType", "WORKSPACE"),
    } <= seen
    assert seen >= GUARDED, "a guard that nobody needs any more"
    assert all(versions_of(*one) != EVERYWHERE for one in GUARDED)


def test_no_numbers_of_enums_and_no_comparison_of_versions() -> None:
    """They move between versions. trtexec alone has a table by version: it has no attributes to ask for."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift) and path.name == "build_net.py":
                assert ast.unparse(node.right).startswith("int(member)"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Compare) and path.name != "trtexec.py":
                assert "__version__" not in ast.unparse(node), f"{path.name}:{node.lineno}"


def test_a_wrong_call_fails_on_the_fake(each_version: str) -> None:
    import behaviour  # of the fake
    import tensorrt as trt

    context = behaviour.new("IExecutionContext", engine=None, addresses={}, shapes={}, profiler=None, cuda=None, work=[])
    for wrong in (
        lambda: context.set_tensor_address("x", "y"),
        lambda: context.set_tensor_address("x"),
        lambda: context.execute_async_v3(stream=7),
        lambda: context.set_input_shape("x", 3),
    ):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            wrong()
    with pytest.raises(AttributeError):
        context.profilr = None
    with pytest.raises(AttributeError):
        context.engine = None
    assert hasattr(trt.BuilderFlag, "FP16") == (not each_version.startswith("11."))
    assert hasattr(trt, "IProgressMonitor") == (not each_version.startswith("8."))


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("engine.py", "execute_async_v3", "execute_async_v2"),
        ("engine.py", "num_io_tensors", "num_bindings"),
        ("engine.py", "set_input_shape", "set_binding_shape"),
        ("engine.py", "TensorIOMode.INPUT", "TensorIOMode.IN"),
        ("build_net.py", "build_serialized_network", "build_engine"),
        ("build_net.py", "config.set_memory_pool_limit", "config.max_workspace_size"),
        ("build_net.py", "trt.BuilderFlag.GPU_FALLBACK", "trt.BuilderFlag.FP16"),
        ("build_net.py", "trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.TACTIC_DRAM"),
    ],
)
def test_the_check_refuses_what_some_version_lacks(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    source = next(path for path in SOURCES if path.name == file).read_text()
    assert right in source
    (tmp_path / file).write_text(source.replace(right, wrong))
    with pytest.raises(AssertionError, match=wrong.rpartition(".")[2]):
        test_names(tmp_path / file)
