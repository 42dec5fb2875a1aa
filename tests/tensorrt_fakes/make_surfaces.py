"""Regenerates surfaces.json: what of TensorRT's Python API the agent's classes have, read out of NVIDIA's own bindings of nine
versions.

    python make_surfaces.py WORK      downloads by pip into WORK (9 MB, and 549 MB for 8.5.2), needs gcc and binutils, no GPU

A binding is a small module that needs NVIDIA's libraries; stand-ins for these, whose functions all return NULL, are compiled,
and the
module imports. No wheel and no text of NVIDIA's is kept: only names, parameters and numbers of enums (the bindings' source is
published
by NVIDIA under the Apache License 2.0). 8.5.2 exists for Python up to 3.10 alone: where this Python is newer, the one place
where the module asks for its version is changed in the copy. That is enough for looking at names, and for nothing else.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = {  # label: requirement, what it stands for
    "8.5.2": "tensorrt==8.5.2.2",  # JetPack 5.1; the binding is inside the whole wheel
    "8.6.1": "tensorrt-bindings==8.6.1",  # JetPack 6.0 (8.6.2)
    "10.0.1": "tensorrt-cu12-bindings==10.0.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6.1, 6.2
    "10.7.0": "tensorrt-cu12-bindings==10.7.0",  # last of 10 with DLA
    "10.13.3": "tensorrt-cu12-bindings==10.13.3.9",  # JetPack 7.0, 7.1
    "10.16.1": "tensorrt-cu12-bindings==10.16.1.11",  # JetPack 7.2 (10.16.2)
    "11.0.0": "tensorrt-cu12-bindings==11.0.0.114",
    "11.4.0": "tensorrt-cu12-bindings==11.4.0.106",  # for 11.4.1, the first of 11 for JetPack
}
CLASSES = [
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
    "EngineInspector",
    "IOptimizationProfile",
    "ITimingCache",
    "IHostMemory",
    "IProfiler",
    "IProgressMonitor",
    "ILogger",
    "Logger",
    "ILayer",
    "ITensor",
    "IInt8EntropyCalibrator2",
    "IInt8MinMaxCalibrator",
    "Dims",
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "MemoryPoolType",
    "TacticSource",
    "ProfilingVerbosity",
    "DeviceType",
    "LayerType",
    "TensorIOMode",
    "LayerInformationFormat",
    "HardwareCompatibilityLevel",
    "DataType",
    "ErrorCode",
]
NULLS = re.compile(
    r"^(create(Infer|NvOnnx)\w+|getNvOnnxParserVersion|get\w*PluginRegistry|getInferLib\w+|initLibNvInferPlugins|_ZN?[A-Z]?\d+nv\w+.*)$"
)
SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\) -> .+$")
LOOK = "import sys; sys.path.insert(0, sys.argv[1]); import make_surfaces; make_surfaces.look()"


def output(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout


def fetch(label: str, requirement: str, work: Path) -> Path:
    """Folder with the binding as the package `tensorrt`."""
    package, wheels = work / label / "package", work / label / "wheels"
    if (package / "tensorrt" / "tensorrt.so").exists():
        return package
    old = ["--python-version", "3.10"] if label.startswith("8.5") and sys.version_info > (3, 10) else []
    output(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", *old, "-d", wheels, requirement)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            top, _, rest = name.partition("/")
            if top in ("tensorrt", "tensorrt_bindings") and (rest == "tensorrt.so" or rest.endswith(".py")):
                path = package / "tensorrt" / rest
                path.parent.mkdir(parents=True, exist_ok=True)
                data = wheel.read(name)
                if old and rest == "tensorrt.so":
                    mine = b"odule()\0003.%d\0tensorr" % sys.version_info[1]
                    assert data.count(b"odule()\0003.10\0tensorr") == 1
                    data = data.replace(b"odule()\0003.10\0tensorr", mine)
                path.write_bytes(data)
    return package


def stand_ins(binding: Path, folder: Path) -> None:
    """Libraries of the names that the binding needs, whose functions return NULL."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:nv|tensorrt)[^\]]*)\]", output("readelf", "-d", binding))
    undefined = [line.split()[-1] for line in output("nm", "-D", "--undefined-only", binding).splitlines()]
    symbols = [name for name in undefined if "@" not in name and NULLS.match(name)]
    functions = "".join(
        f'void *null_{i}(void) __asm__("{name}"); void *null_{i}(void) {{ return 0; }}\n' for i, name in enumerate(symbols)
    )
    for index, library in enumerate(needed):
        source = folder / f"{library}.c"
        source.write_text(functions if index == 0 else f"int nothing_{index};\n")
        output("gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source)


def parameters(signature: str) -> str:
    """`name:type` of each parameter but self, `?` behind those that may be left out; types of no interest are `any`."""
    inside = SIGNATURE.match(signature)[1]  # type: ignore[index]
    found = []
    for part in re.split(r",\s*(?![^\[(]*[\])])", inside)[1:]:
        name, _, rest = part.partition(":")
        kind, equals, _ = rest.partition("=")
        kind = re.sub(r"typing\.|typing_extensions\.|collections\.abc\.|tensorrt\.(?:tensorrt\.)?|nvinfer1::", "", kind.strip())
        kind = re.sub(r"Supports(Int|Float)(?: \| SupportsIndex)?", lambda m: m[1].lower(), kind).replace("::", ".")
        kind = {"buffer": "bytes", "Buffer": "bytes"}.get(kind, kind)
        kind = kind if re.fullmatch(r"str|bool|int|float|bytes|tuple|list|[A-Z]\w+(\.\w+)?", kind) else "any"
        found.append(f"{name.strip()}:{kind}{'?' if equals else ''}")
    return ", ".join(found)


def signatures(item: object) -> list[str]:
    lines = [line.strip() for line in (getattr(item, "__doc__", None) or "").splitlines()]
    lines = [re.sub(r"^\d+\. ", "", re.sub(r"<(\w+)\.(\w+): -?\d+>", r"\1.\2", line)) for line in lines]
    return [parameters(line) for line in lines if SIGNATURE.match(line) and "*args, **kwargs" not in line]


def members(cls: type) -> dict[str, object]:
    enum = getattr(cls, "__members__", None)
    if isinstance(enum, dict):
        return {name: int(value) for name, value in enum.items()}
    found: dict[str, object] = {}
    for name in dir(cls):
        item = inspect.getattr_static(cls, name)
        if name.startswith("__") and name != "__init__":
            continue
        if cls.__name__ == "INetworkDefinition" and name.startswith("add_"):
            continue  # the parser adds the layers
        if isinstance(item, property):
            found[name] = "read-write" if item.fset else "read-only"
        elif not inspect.isclass(item) and signatures(getattr(cls, name)):
            found[name] = signatures(getattr(cls, name))
    return found


def look() -> None:
    """The surface of the module `tensorrt` of this process, as JSON on stdout."""
    import tensorrt as trt

    classes = {name: members(getattr(trt, name)) for name in CLASSES if hasattr(trt, name)}
    classes["ILogger.Severity"] = members(trt.ILogger.Severity)
    json.dump({"version": trt.__version__, "classes": classes}, sys.stdout)


def main(work: Path) -> None:
    """Merge: class -> member -> spec -> Y or - for each version; the same spec is written once."""
    versions, merged = [], {}
    for index, (label, requirement) in enumerate(VERSIONS.items()):
        package = fetch(label, requirement, work)
        stand_ins(package / "tensorrt" / "tensorrt.so", work / label / "libraries")
        said = output(sys.executable, "-c", LOOK, HERE, LD_LIBRARY_PATH=str(work / label / "libraries"), PYTHONPATH=str(package))
        found = json.loads(said)
        versions.append(found["version"])
        for cls, table in found["classes"].items():
            for member, spec in table.items():
                text = " | ".join(spec) if isinstance(spec, list) else spec
                key = f"({text})" if isinstance(spec, list) else f"={text}" if isinstance(spec, int) else str(text)
                masks = merged.setdefault(cls, {}).setdefault(member, {})
                masks[key] = masks.get(key, "-" * index) + "Y"
        for table in merged.values():
            for masks in table.values():
                masks.update({key: mask.ljust(index + 1, "-") for key, mask in masks.items()})
    lines = [f'{{\n"versions": {json.dumps(versions)},\n"classes": {{']
    blocks = []
    for cls in sorted(merged):
        rows = [f" {json.dumps(member)}: {json.dumps(merged[cls][member], sort_keys=True)}" for member in sorted(merged[cls])]
        blocks.append(f"{json.dumps(cls)}: {{\n" + ",\n".join(rows) + "\n}")
    (HERE / "surfaces.json").write_text("\n".join([*lines, ",\n".join(blocks), "}}"]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
