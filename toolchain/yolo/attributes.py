"""What a network read from a file may be made of: listed layer classes, tensors and plain data. Nothing that can be called."""

from __future__ import annotations

import inspect
import pathlib
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from toolchain.errors import UnsafeCheckpointError

FUSED_FORWARDS = ("forward", "forward_fuse", "forward_split")
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device, pathlib.PurePath)


def module_classes() -> dict[str, type[nn.Module]]:
    """Dotted name -> every layer class of torch.nn and ultralytics.nn.modules, and DetectionModel."""
    import ultralytics.nn.modules as layers
    import ultralytics.nn.tasks as tasks

    found: dict[str, type[nn.Module]] = {}
    for home in (torch.nn.modules, layers):
        parts = [value for value in vars(home).values() if inspect.ismodule(value) and value.__name__.startswith(home.__name__)]
        for part in parts:
            for value in vars(part).values():
                if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__.startswith(home.__name__):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    for name, cls in list(found.items()):
        if name.startswith("ultralytics."):  # up to 8.0.84 all layers lived in one file
            found.setdefault(f"ultralytics.nn.modules.{cls.__name__}", cls)
    found["ultralytics.nn.modules.block.Silence"] = nn.Identity  # YOLOv9
    found["ultralytics.nn.tasks.DetectionModel"] = tasks.DetectionModel
    found["ultralytics.nn.tasks.YOLOv10DetectionModel"] = tasks.DetectionModel
    return found


def vars_of_type(owner: object) -> dict[str, Any]:
    """Everything the class of `owner` defines, nearest definition first."""
    merged: dict[str, Any] = {}
    for base in type(owner).__mro__:
        for name, value in vars(base).items():
            merged.setdefault(name, value)
    return merged


def check_attributes(root: nn.Module, path: object) -> None:
    """Every attribute below `root` is plain data, a tensor or a listed layer, and no hook is set.

    Raises:
        UnsafeCheckpointError: naming the attribute.
    """
    known = set(module_classes().values())
    seen: set[int] = set()
    waiting: list[tuple[str, Any, object]] = [("model", root, None)]
    while waiting:
        name, value, owner = waiting.pop()
        if id(value) in seen and not isinstance(value, types.MethodType):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            if type(value) not in known:
                _unsafe(name, value, path)
            _check_names(name, value, path)
            waiting += [(f"{name}.{key}", item, value) for key, item in vars(value).items()]
        elif not _is_plain(value, owner):
            inside = _contents(name, value)
            if inside is None:
                _unsafe(name, value, path)
            else:
                waiting += [(label, item, None) for label, item in inside]


def _check_names(name: str, module: nn.Module, path: object) -> None:
    """No attribute takes the place of a method; no hook is registered."""
    defined = vars_of_type(module)
    for key, value in vars(module).items():
        if not isinstance(key, str):
            _unsafe(f"{name}, an attribute's name,", key, path)
        if (key.startswith("_") and "hooks" in key and value) or (key == "_compiled_call_impl" and value is not None):
            _unsafe(f"{name}.{key}", value, path)
        shadowed = isinstance(defined.get(key), (types.FunctionType, staticmethod, classmethod))
        if shadowed and not isinstance(value, PLAIN) and not (key == "forward" and _is_own_forward(value, module)):
            _unsafe(f"{name}.{key}", value, path)


def _is_own_forward(value: object, owner: object) -> bool:
    return (isinstance(value, types.MethodType) and value.__self__ is owner
            and value.__func__ in [vars_of_type(owner).get(name) for name in FUSED_FORWARDS])  # fmt: skip


def _is_plain(value: Any, owner: object) -> bool:
    if type(value) in (torch.Tensor, nn.Parameter):
        return not (vars(value) or value._backward_hooks)
    return isinstance(value, PLAIN) or _is_own_forward(value, owner)


def _contents(name: str, value: Any) -> list[tuple[str, Any]] | None:
    """What a container holds, keys included; None when it is not one of the plain ones."""
    if type(value) is dict or (type(value) is OrderedDict and not vars(value)):
        return [(f"{name} key", key) for key in value] + [(f"{name}.{key}", item) for key, item in value.items()]
    if type(value) in (list, tuple, set):
        return [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, types.SimpleNamespace):
        return [(f"{name}.{key}", item) for key, item in vars(value).items()]
    return None


def _unsafe(name: str, value: object, path: object) -> None:
    raise UnsafeCheckpointError(
        "an attribute of the model is not plain data; the model was not used",
        got=f"{path}: {name.replace('._modules', '')} is a {type(value).__module__}.{type(value).__qualname__}",
        fix="get the model from a source you trust",
    )
