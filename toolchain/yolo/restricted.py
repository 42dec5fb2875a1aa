"""Read a `.pt` as data: an explicit list of classes, constructors that cannot be called, and a look at every attribute.

torch's `weights_only` unpickler is the base. Three things are added. (1) Module classes are handed to it as stubs which make an
empty instance and refuse to be called, because a constructor can do work (`DetectionModel({"activation": CODE})` would evaluate
CODE). (2) The file is one plain, uncompressed zip read once into memory: what was checked is what is loaded. (3) Every attribute
of the loaded network must be plain data (`attributes.py`), so nothing in it can take the place of a method or hook.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import pickletools
import types
import zipfile
from typing import Any

import numpy as np
import torch
from torch import nn

from toolchain.errors import CheckpointError, UnsafeCheckpointError
from toolchain.yolo.attributes import FUSED_FORWARDS, module_classes, vars_of_type

TRUST = "get the model from a source you trust"

TASKS = {"Segmentation": "segmentation", "Classification": "classification", "Pose": "pose", "OBB": "oriented boxes",
         "RTDETRDetection": "RT-DETR", "World": "YOLO-World", "YOLOE": "YOLOE", "YOLOESeg": "YOLOE segmentation",
         "Semantic": "semantic segmentation", "Depth": "depth"}  # fmt: skip
TRAINING_STATE = tuple(f"ultralytics.{home}" for home in ("utils.loss.", "utils.tal.", "yolo.utils.loss.", "yolo.utils.tal.",
                                                          "yolo.v8.detect.train."))  # fmt: skip
TORCH_DATA = {"collections.OrderedDict", "builtins.set", "builtins.complex", "_codecs.encode", "torch.Size", "torch.device",
              "torch.nn.parameter.Parameter", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2",
              "torch._utils._rebuild_parameter"}  # fmt: skip
BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
          OverflowError, RecursionError, OSError)  # fmt: skip


class _NeverCalled(type):
    """A class a pickle may make an empty instance of, and may not call."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(f"the file asks to call the constructor of {cls.__name__}")


class _Dropped:
    """Stands for training state (losses, assigners) that is thrown away after loading."""

    def __setstate__(self, state: object) -> None:
        pass


class _NumpyType:
    """`numpy.dtype(code)` as a name only."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _numpy_scalar(kind: _NumpyType, raw: bytes) -> bool | int | float:
    """A pickled NumPy number as a Python one."""
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"NumPy scalar of type {dtype} in a checkpoint")
    value: bool | int | float = np.frombuffer(raw, dtype, count=1)[0].item()
    return value


def _bound_forward(owner: object, name: str) -> Any:
    """`getattr` as fused checkpoints use it: a module's own forward, nothing else."""
    method = vars_of_type(owner).get(name)
    if isinstance(owner, nn.Module) and name in FUSED_FORWARDS and isinstance(method, types.FunctionType):
        return types.MethodType(method, owner)
    raise pickle.UnpicklingError(f"the file asks for getattr({type(owner).__name__}, {name!r})")


def _stub(real: type) -> type:
    """Stands for a layer class: makes an empty instance of it, and nothing else."""
    return _NeverCalled(real.__name__, (), {"__new__": lambda stub: object.__new__(real)})


def _is_torch_data(name: str) -> bool:
    """Tensors, their types and storages: torch's reader makes these itself."""
    home, _, last = name.rpartition(".")
    storage = home in ("torch", "torch.storage") and last.endswith("Storage") and last.isidentifier()
    return name in TORCH_DATA or storage or (home == "torch" and isinstance(getattr(torch, last, None), torch.dtype))


def _data_globals() -> dict[str, Any]:
    """Dotted name -> what stands for it, for what a checkpoint holds besides layers and tensors."""
    from ultralytics.utils import IterableSimpleNamespace

    allowed: dict[str, Any] = {"builtins.getattr": _bound_forward, "numpy.dtype": _NumpyType}
    for home in ("ultralytics.utils", "ultralytics.yolo.utils"):
        allowed[f"{home}.IterableSimpleNamespace"] = IterableSimpleNamespace
    for home in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed[f"{home}.scalar"] = _numpy_scalar
    for home in ("pathlib", "pathlib._local"):
        for pure in ("", "Pure"):
            allowed[f"{home}.{pure}PosixPath"] = pathlib.PurePosixPath
            allowed[f"{home}.{pure}WindowsPath"] = pathlib.PureWindowsPath
    return allowed


def _globals_in(stream: bytes) -> set[str]:
    """Dotted names a pickle asks for; stops quietly where the stream stops being one."""
    names: set[str] = set()
    recent: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                names.add(str(argument).replace(" ", ".").replace("__builtin__.", "builtins."))
            elif opcode.name == "STACK_GLOBAL":
                names.add(".".join(recent[-2:]))
            elif isinstance(argument, str):
                recent.append(argument)
    except (ValueError, IndexError):
        pass  # torch's own reader gives the verdict on the rest
    return names


def _pickle_of(data: bytes, path: object) -> bytes:
    """The pickle inside a torch zip.

    Raises:
        CheckpointError: not a torch zip, damaged, or TorchScript.
        UnsafeCheckpointError: a bare pickle that asks for code, or a compressed zip.
    """
    retry = "copy or download the file again, or train the model again with ultralytics"
    if not data:
        raise CheckpointError("the checkpoint is empty", got=f"{path} (0 bytes)", fix=retry)
    if not data.startswith(b"PK"):
        asked = sorted(_globals_in(data))
        if data[:1] in b"\x80c(" and asked:
            raise UnsafeCheckpointError(
                "a bare pickle, not a torch checkpoint; it was not opened",
                got=f"{path} asks for {', '.join(asked[:5])}",
                fix=TRUST,
            )
        raise CheckpointError("not a checkpoint as torch 1.6 or newer saves it", got=f"{path} ({len(data)} bytes)", fix=retry)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = {entry.filename.split("/", 1)[-1]: entry.filename for entry in entries}
            if "constants.pkl" in names:
                raise CheckpointError("a TorchScript archive, not a checkpoint", got=path, fix="give the .pt that training wrote")
            if len(names) != len(entries):
                raise UnsafeCheckpointError("a checkpoint with two files of one name", got=path, fix=TRUST)
            if "data.pkl" not in names:
                raise CheckpointError("a zip, but not a torch checkpoint", got=f"{path}: {sorted(names)[:4]}", fix=retry)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UnsafeCheckpointError("a compressed checkpoint; torch never writes one", got=path, fix=TRUST)
            return archive.read(names["data.pkl"])
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError("the checkpoint is damaged or cut short", got=f"{path}: {error}", fix=retry) from error


def read_checkpoint(data: bytes, path: object) -> Any:
    """The object in a `.pt`, made without running anything the file brings along.

    Args:
        data: contents of the file.
        path: its name, for messages.

    Raises:
        CheckpointError: empty, damaged, not a checkpoint, or a model for another task.
        UnsafeCheckpointError: it asks for something outside the list.
    """
    asked = _globals_in(_pickle_of(data, path))
    layers = module_classes()
    others = _data_globals() | {name: _Dropped for name in asked if name.startswith(TRAINING_STATE)}
    _refuse_foreign(sorted(name for name in asked - set(layers) - set(others) if not _is_torch_data(name)), path)
    needed: list[Any] = [(_stub(layers[name]), name) for name in asked & set(layers)]
    needed += [(others[name], name) for name in asked & set(others)]
    # A name without a dot cannot be asked for by a pickle: instances may be filled in, the real class cannot be reached.
    real = {layers[name] for name in asked & set(layers)}
    needed += [(cls, f"instance{index}") for index, cls in enumerate(sorted(real, key=str))]
    try:
        with torch.serialization.safe_globals(needed):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except BROKEN as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError):
            reason = text.split("WeightsUnpickler error:")[-1].strip().split("\n")[0].split(" Please use")[0]
            raise UnsafeCheckpointError(
                "the checkpoint asks for something a YOLO model does not need; nothing was run",
                got=f"{path}: {reason}",
                fix=TRUST,
            ) from error
        raise CheckpointError(
            "the checkpoint is damaged or cut short", got=f"{path}: {type(error).__name__}: {text[:200]}", fix="copy it again"
        ) from error


def _refuse_foreign(foreign: list[str], path: object) -> None:
    """Say what the file wanted and did not get."""
    if not foreign:
        return
    tasks = {f"ultralytics.nn.tasks.{key}Model": task for key, task in TASKS.items()}
    if any(name in tasks for name in foreign) and all(
        name in tasks or name.startswith("torchvision.transforms.") for name in foreign
    ):
        kind = next(tasks[name] for name in foreign if name in tasks)
        raise CheckpointError("not a detection model", got=f"{path}: a {kind} model", fix="give a YOLO detection checkpoint")
    if any(name.startswith(("models.yolo.", "models.common.")) for name in foreign):
        raise CheckpointError(
            "a checkpoint of the old yolov5 or yolov7 repository",
            got=f"{path}: {foreign[0]}",
            fix="train the model with the ultralytics package (yolov5nu, yolov8n, yolo11n, ...)",
        )
    raise UnsafeCheckpointError(
        "the checkpoint asks for code outside YOLO models; nothing was run",
        got=f"{path} asks for {', '.join(foreign[:5])}",
        fix=TRUST,
    )
