"""Detection models in and out of files: a `.pt` is read as data, never run, and written so that plain ultralytics loads it."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolchain import stage
from toolchain.errors import CheckpointError
from toolchain.yolo.attributes import check_attributes, module_classes
from toolchain.yolo.model_yaml import build_from_yaml, check_model_yaml, find_model_yaml
from toolchain.yolo.restricted import read_checkpoint

EXTRA_KEY = "edge_toolchain"


@dataclass(frozen=True)
class LoadedModel:
    """A detection network and what its file says about it.

    Attributes:
        module: ultralytics DetectionModel, float32, eval mode, on the CPU.
        names: class id -> name.
        stride: the largest step of the network in pixels; image sizes are multiples of it.
        imgsz: side of the training pictures in pixels, None when the file does not say.
        sha256: hash of the file.
        path: the file.
        train_args: what it was trained with, plain JSON types.
        extra: what this package stored with it.
    """

    module: nn.Module
    names: dict[int, str]
    stride: int
    imgsz: int | None
    sha256: str
    path: Path
    train_args: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def load_model(path: Path, *, nc: int | None = None) -> LoadedModel:
    """Read any ultralytics detection `.pt` (its EMA if there is one), or build a `.yaml` with random weights.

    Args:
        path: the file.
        nc: number of classes, for a `.yaml` only.

    Raises:
        CheckpointError: missing, damaged, or not a detection model.
        UnsafeCheckpointError: the file asks for anything beyond known layers and plain data.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        fresh, file = build_from_yaml(path, nc), find_model_yaml(path)[0]
        return _loaded(fresh, file, stage.file_sha256(file), {}, {})
    if nc is not None:
        raise CheckpointError("the number of classes can only be chosen for a .yaml", got=path)
    if not path.is_file():
        raise CheckpointError("model file not found", got=path, fix="check the path; models are never downloaded")
    data = path.read_bytes()
    content = read_checkpoint(data, path)
    if not isinstance(content, dict):
        raise CheckpointError(
            "not an ultralytics checkpoint", got=f"{path}: a {type(content).__name__}", fix="give a detection .pt"
        )
    module = content.get("model") if content.get("ema") is None else content["ema"]
    if not isinstance(module, nn.Module):
        fix = "a list of weights alone is not enough: give the .pt that ultralytics training wrote"
        raise CheckpointError("the checkpoint holds no model", got=f"{path}: keys {sorted(map(str, content))[:8]}", fix=fix)
    if content.get("modelopt") is not None:
        raise CheckpointError("a checkpoint of quantization-aware training", got=path, fix="give the float checkpoint")
    vars(module).pop("criterion", None)  # the training loss; training makes its own
    check_attributes(module, path)
    train_args, extra = _plain(content.get("train_args"), path), _plain(content.get(EXTRA_KEY), path)
    return _loaded(module, path, hashlib.sha256(data).hexdigest(), train_args, extra)


def _loaded(module: Any, path: Path, sha256: str, train_args: dict[str, Any], extra: dict[str, Any]) -> LoadedModel:
    try:
        head = _detect_head(module, path)
        _modernise(module, head, train_args)
        names = _names(module, head, path)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(".dfl." not in name)  # files store them all frozen; the DFL conv is a constant by design
        _check_runs(module, len(names), path)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        fix = "the file may come from another ultralytics version: save it again there, or train again"
        raise CheckpointError("the network does not run", got=f"{path}: {type(error).__name__}: {error}", fix=fix) from error
    imgsz = train_args.get("imgsz")
    imgsz = max(imgsz) if isinstance(imgsz, list) and imgsz else imgsz
    stride = int(torch.as_tensor(module.stride).max())
    return LoadedModel(module, names, stride, imgsz if isinstance(imgsz, int) else None, sha256, path, train_args, extra)


def _detect_head(module: Any, path: Path) -> Any:
    """The last layer, which must be a plain detection head.

    Raises:
        CheckpointError: another task.
    """
    from ultralytics.nn.modules import Detect, v10Detect
    from ultralytics.nn.tasks import DetectionModel

    layers = module._modules.get("model")
    head = list(layers.children())[-1] if isinstance(layers, nn.Sequential) and len(layers) else None
    if type(module) is not DetectionModel or type(head) not in (Detect, v10Detect) or head is None:
        got = f"{path}: {type(module).__name__} ending in {type(head).__name__}"
        raise CheckpointError("not a detection model", got=got, fix="give a YOLO detection checkpoint")
    if isinstance(getattr(module, "yaml", None), dict):
        check_model_yaml(module.yaml, path)
    return head


def _modernise(module: Any, head: Any, train_args: dict[str, Any]) -> None:
    """Fill in what older ultralytics and torch versions did not store; drop what only training or exporting needs."""
    for key in ("export", "format", "dynamic", "end2end", "_end2end"):  # boxes are suppressed after the network, as by default
        vars(head).pop(key, None)
    vars(module).pop("end2end", None)
    module.float().eval()
    if not hasattr(module, "stride"):
        module.stride = head.stride if hasattr(head, "stride") else torch.tensor([32.0])
    module.args = {**train_args, "task": "detect"}
    module.task = "detect"
    for layer in module.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = True
        if isinstance(layer, nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None


def _names(module: Any, head: Any, path: Path) -> dict[int, str]:
    stored = getattr(module, "names", None)
    pairs = stored.items() if isinstance(stored, dict) else enumerate(stored or [])
    try:
        names = {int(key): str(value) for key, value in pairs}
    except (TypeError, ValueError) as error:
        raise CheckpointError("class names cannot be read", got=f"{path}: {str(stored)[:80]}") from error
    if sorted(names) != list(range(int(head.nc))):
        raise CheckpointError("class names do not fit the network", got=f"{path}: {len(names)} names, {head.nc} outputs")
    module.names = names
    return names


def _check_runs(module: Any, classes: int, path: Path) -> None:
    """One grey picture through the network: a file that loads and cannot run is of no use later."""
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise CheckpointError("the network has no convolution", got=path)
    side = 2 * int(torch.as_tensor(module.stride).max())
    with torch.inference_mode():
        output = module(torch.full((1, first.in_channels, side, side), 0.5))
    shape = tuple(output[0].shape) if isinstance(output, tuple) else None
    if shape is None or len(shape) != 3 or shape[1] != 4 + classes:
        fix = "give the checkpoint that training wrote, not one fused for end-to-end inference"
        raise CheckpointError(f"the network's output is not (1, {4 + classes}, anchors)", got=f"{path}: {shape}", fix=fix)


def save_checkpoint(
    path: Path, module: nn.Module, *, names: Mapping[int, str], train_args: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    """Write a `.pt` that plain `ultralytics.YOLO(path)` loads where this package is not installed. The module is not changed.

    Args:
        path: written in one step; an old file survives a failure.
        module: DetectionModel of stock layers only.
        names: class id -> name.
        train_args: what it was trained with; ultralytics reads `imgsz`, `data`, `task` from it.
        extra: JSON types, kept under the key `edge_toolchain`.

    Raises:
        CheckpointError: a layer that ultralytics does not know, a hook, or `extra` is not JSON.
        DiskFullError: no space left.
    """
    import ultralytics

    stored = _stripped(module, path)
    stored.names = dict(names)
    stored.args = {**_plain(train_args, path), "task": "detect"}
    buffer = io.BytesIO()
    torch.save({
        "epoch": -1, "best_fitness": None, "model": stored, "ema": None, "updates": None, "optimizer": None, "scaler": None,
        "train_args": stored.args, "train_metrics": None, "train_results": None, "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__, "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com", EXTRA_KEY: _plain(extra, path),
    }, buffer)  # fmt: skip
    stage.write_bytes(path, buffer.getvalue())


def _stripped(module: nn.Module, path: Path) -> Any:
    """A float32 CPU copy without training state.

    Raises:
        CheckpointError: a layer outside ultralytics and torch.
    """
    known = set(module_classes().values())
    for name, layer in module.named_modules():
        if type(layer) not in known:
            raise CheckpointError(
                "a layer that plain ultralytics cannot load",
                got=f"{path}: {name} is a {type(layer).__module__}.{type(layer).__qualname__}",
                fix="turn rewritten blocks back into the stock ones before saving",
            )
    stored: Any = copy.deepcopy(module).cpu().float().eval()
    stored.__dict__.pop("criterion", None)
    for parameter in stored.parameters():
        parameter.grad = None
        parameter.requires_grad_(False)
    check_attributes(stored, path)
    return stored


def _plain(value: Any, path: Path) -> dict[str, Any]:
    """A mapping or namespace in JSON types: paths and other objects become text; nothing becomes an empty mapping.

    Raises:
        CheckpointError: it is neither.
    """
    try:
        mapping = value if isinstance(value, Mapping) else vars(value) if value is not None else {}
        plain: dict[str, Any] = json.loads(json.dumps(dict(mapping), default=str))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            "not plain data", got=f"{path}: {error}", fix="store only numbers, text, lists and mappings"
        ) from error
    return plain
