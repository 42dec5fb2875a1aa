"""Model YAML files, checked before ultralytics builds from them: its builder evaluates strings and looks names up by itself."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped,unused-ignore]
from torch import nn

from toolchain.errors import CheckpointError, DataError, UnsafeCheckpointError


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping, plain data only.

    Raises:
        DataError: missing, not YAML, or not a mapping.
    """
    if not path.is_file():
        raise DataError(f"{what} not found", got=path, fix="check the path")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{what} is not valid YAML", got=f"{path}: {error}", fix="correct that line") from error
    if not isinstance(value, dict):
        raise DataError(f"{what} is not a mapping of keys to values", got=f"{path}: {type(value).__name__}")
    return value


def is_plain_activation(text: object) -> bool:
    """Whether a string is `nn.Name(literals)` or `torch.nn.Name(literals)` for a layer Name of torch.nn."""
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            return False
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    owner, layer = ast.unparse(call.func.value), getattr(nn, call.func.attr, None)
    named = all(keyword.arg for keyword in call.keywords)
    return owner in ("nn", "torch.nn") and named and isinstance(layer, type) and issubclass(layer, nn.Module)


def check_model_yaml(config: dict[str, Any], path: object) -> None:
    """Refuse a model description that could make the builder do more than build layers.

    Raises:
        UnsafeCheckpointError: an activation or layer that is not a plain layer of torch.nn or ultralytics.
        CheckpointError: no backbone and head.
    """
    from toolchain.yolo.attributes import module_classes

    activation = config.get("activation")
    if activation and not is_plain_activation(activation):
        raise UnsafeCheckpointError(
            "the activation is not a plain torch.nn layer; ultralytics would evaluate it",
            got=f"{path}: activation: {activation}",
            fix="write it as torch.nn.SiLU() or nn.LeakyReLU(0.1)",
        )
    rows = [*_rows(config, "backbone", path), *_rows(config, "head", path)]
    names = {name.rsplit(".", 1)[-1] for name in module_classes() if name.startswith("ultralytics.nn.modules.")} - {"TorchVision"}
    for row in rows:
        layer = row[2]
        in_torch = layer.startswith("nn.") and isinstance(getattr(nn, layer[3:], None), type)
        if not (layer in names or (in_torch and issubclass(getattr(nn, layer[3:]), nn.Module))):
            raise UnsafeCheckpointError(
                "the model asks for something that is not a layer of torch.nn or ultralytics.nn.modules",
                got=f"{path}: {row}",
                fix="use a layer of those two packages (TorchVision backbones are not supported: they download)",
            )


def _rows(config: dict[str, Any], key: str, path: object) -> list[list[Any]]:
    rows = config.get(key)
    if not isinstance(rows, list) or not rows:
        raise CheckpointError(f"not a YOLO model description: no {key}", got=path, fix="give a model YAML, not a data YAML")
    for row in rows:
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
            raise CheckpointError(f"{key} row is not [from, repeats, layer, arguments]", got=f"{path}: {row}")
    return rows


def find_model_yaml(path: Path) -> tuple[Path, str | None]:
    """The file and the scale that a name such as `yolov8n.yaml` stands for, as ultralytics reads it.

    A file of that name wins; then the family's file beside it (`yolov8.yaml`); then, for a bare name, the one ultralytics ships.

    Raises:
        CheckpointError: nothing of that name.
    """
    match = re.search(r"(yolo(?:e-)?v?\d+)([nstmlbxce])(?=[-_.]|$)", path.stem)
    scale = match.group(2) if match else None
    family = path.name.replace(match.group(0), match.group(1)) if match else path.name
    tried = [path, path.with_name(family)]
    found = next((file for file in tried if file.is_file()), None)
    if found is None and path.parent == Path("."):
        import ultralytics

        shipped = Path(ultralytics.__file__).parent / "cfg" / "models"
        found = next((file for name in (path.name, family) for file in sorted(shipped.rglob(name))), None)
    if found is None:
        raise CheckpointError("model description not found", got=" or ".join(map(str, tried)), fix="check the path")
    return found, scale


def build_from_yaml(path: Path, nc: int | None, seed: int = 0) -> nn.Module:
    """A fresh network with random weights, the same for the same seed.

    Args:
        path: model YAML; the scale letter is in its name (`yolov8n.yaml`) or under its key `scale`.
        nc: number of classes instead of the file's own.

    Raises:
        CheckpointError: missing, no scale given, or it does not build a network.
        UnsafeCheckpointError: see `check_model_yaml`.
    """
    from ultralytics.nn.tasks import DetectionModel

    file, scale = find_model_yaml(path)
    try:
        config = read_yaml(file, "model description")
    except DataError as error:
        raise CheckpointError(error.what, got=error.got, fix=error.fix) from error
    check_model_yaml(config, file)
    config = copy.deepcopy(config)
    scales = config.get("scales")
    if scales:
        config["scale"] = config.get("scale") or scale
        if config["scale"] not in scales:
            raise CheckpointError(
                "the model description has several sizes and none was chosen",
                got=f"{path}: scale {config['scale']!r}, known {sorted(scales)}",
                fix="put the letter in the name (yolov8n.yaml) or add `scale: n` to the file",
            )
    config["yaml_file"] = str(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = DetectionModel(config, ch=int(config.get("channels", 3)), nc=nc, verbose=False)
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
            raise CheckpointError("ultralytics cannot build this model", got=f"{file}: {error}", fix="check the rows") from error
    return model
