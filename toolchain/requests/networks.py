"""What is cut, chosen and trained: checks of the values a user typed for networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.config import PruneSection, QatSection, RunConfig, SelectSection, TrainSection, read_toml
from toolchain.errors import ConfigError, RunFolderError, UsageError
from toolchain.selection.budget import parse_budgets
from toolchain.stage import read_json

if TYPE_CHECKING:
    from toolchain.pruning.prune import PruneRequest


def train_settings(section: TrainSection, seed: int) -> Any:
    """Config section -> the trainer's settings."""
    from toolchain.yolo.distill import DistillWeights
    from toolchain.yolo.trainer import TrainSettings

    values = section.model_dump()
    values["distill"] = DistillWeights(**values["distill"])
    return TrainSettings(**values, seed=seed)


def check_training(section: TrainSection, seed: int) -> None:
    """Raises: ConfigError or UnknownNameError for what ultralytics would refuse when training starts."""
    from toolchain.yolo.trainer import check_settings

    some = section.model_copy(update={"epochs": max(section.epochs, 1)})  # 0 is ours: no fine-tuning
    check_settings(train_settings(some, seed).overrides(Path("data.yaml"), 32, Path("run")))


def qat_settings(section: QatSection, seed: int) -> Any:
    """Config section -> the trainer's settings: pictures as calibration saw them, no warm-up, the last epoch is the result."""
    train = TrainSection(
        epochs=section.epochs, batch=section.batch, lr0=section.lr0, weight_decay=0.0, warmup_epochs=0.0, mosaic=0.0,
        close_mosaic=0, val_every=section.epochs, device=section.device, distill=section.distill,
    )  # fmt: skip
    return train_settings(train, seed)


def check_qat(section: QatSection, seed: int) -> None:
    """Raises: ConfigError for what ultralytics would refuse when QAT starts."""
    from toolchain.yolo.trainer import check_settings

    if section.epochs:
        check_settings(qat_settings(section, seed).overrides(Path("data.yaml"), 32, Path("run")))


def request_of(
    section: PruneSection, imgsz: int, align: int, seed: int, keep_at_least: Mapping[str, float] | None = None
) -> PruneRequest:
    """Config section -> what to cut."""
    from toolchain.pruning.prune import PruneRequest

    if section.layers and section.strategy != "per-layer":
        raise ConfigError(
            "ratios of single layers need the per-layer strategy", got=section.strategy, fix='strategy = "per-layer"'
        )
    return PruneRequest(
        imgsz=imgsz,
        ratio=section.ratio,
        criterion=section.criterion,
        strategy=section.strategy,
        align=section.align or align,
        layers=section.layers,
        images=section.images,
        seed=seed,
        keep_at_least=keep_at_least or {},
    )


def prune_request(
    *, imgsz: int, guard: Path | None = None, guard_drop: float = 0.02, layers: Mapping[str, float] | None = None, **values: Any
) -> PruneRequest:
    """Flags -> what to cut; `guard` is the sensitivity.json whose sensitive groups keep more."""
    from toolchain.pruning.prune import PruneRequest
    from toolchain.pruning.sensitivity import Row
    from toolchain.pruning.sensitivity import guard as least_shares

    try:
        least = {} if guard is None else least_shares([Row(**row) for row in read_json(guard)["rows"]], guard_drop)
    except (KeyError, TypeError, RunFolderError) as error:
        raise ConfigError(
            "not a sensitivity measurement", got=f"{guard}: {error}", fix="the sensitivity.json of `toolchain sensitivity`"
        ) from error
    return PruneRequest(imgsz=imgsz, layers=layers or {}, keep_at_least=least, **values)


def layer_ratios(file: Path | None, flags: Mapping[str, float]) -> dict[str, float]:
    """Ratios of a TOML file (NAME = ratio) under those of flags.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    values = {} if file is None else read_toml(file)
    wrong = {key: value for key, value in values.items() if not isinstance(value, (int, float)) or isinstance(value, bool)}
    if wrong:
        raise ConfigError("a layer's ratio must be a number", got=f"{file}: {wrong}", fix='"model.4.cv1" = 0.3')
    return {**values, **flags}


def check_budget(config: RunConfig) -> None:
    """Raises: UsageError for a budget that is not understood, ConfigError for one beside settings it replaces."""
    if not config.budget:
        return
    budgets = parse_budgets(config.budget)
    usual = PruneSection()
    for key in ("ratio", "strategy", "layers", "guard"):
        if (got := getattr(config.prune, key)) != getattr(usual, key):
            raise ConfigError(
                "a budget chooses the widths, so this setting would have no effect", got=f"prune.{key} = {got!r}",
                fix="leave it out, or leave out the budget",
            )  # fmt: skip
    if config.prune.steps > 1 and (config.select.models or config.select.imgsz):
        raise ConfigError("several starts and several cuts cannot be combined", got=f"prune.steps = {config.prune.steps}",
                          fix="one cut, or one model and picture size")  # fmt: skip
    if config.prune.steps > 1 and any(budget.kind != "latency" for budget in budgets):
        raise ConfigError(
            "several cuts share out a latency budget alone", got=", ".join(map(str, budgets)), fix="prune.steps = 1"
        )
    if config.select.precision == "int8" and not config.int8.enabled:
        raise ConfigError("the budget is for the INT8 engine, but INT8 is off", fix='select.precision = "fp32"')


def sizes(text: str) -> list[int]:
    """Picture sizes of a flag: one, or several between commas.

    Raises:
        UsageError: not whole numbers, or one twice.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError("picture sizes are whole numbers between commas", got=text, fix="--imgsz 640,512") from error
    if len(set(found)) < len(found):
        raise UsageError("a picture size is given twice", got=text)
    return found


def select_section(**values: Any) -> SelectSection:
    """Flags -> selection section."""
    from pydantic import ValidationError

    try:
        return SelectSection(**values)
    except ValidationError as error:
        got = "; ".join(f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ConfigError("selection settings out of range", got=got, fix="see `toolchain select --help`") from error


def train_section(*, extra: Sequence[str] | None = None, **values: Any) -> TrainSection:
    """Flags -> training section; `extra` are NAME=VALUE with YAML values."""
    import yaml
    from pydantic import ValidationError

    pairs = {}
    for entry in extra or ():
        name, sign, value = entry.partition("=")
        if not sign:
            raise UsageError("a training key is NAME=VALUE", got=entry, fix="--set mixup=0.1")
        pairs[name] = yaml.safe_load(value)
    try:
        return TrainSection(extra=pairs, **values)
    except ValidationError as error:
        got = "; ".join(f"{e['loc'][0]} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ConfigError("training settings out of range", got=got, fix="see `toolchain finetune --help`") from error


def ratios(layers: list[str] | None) -> dict[str, float]:
    """NAME=0.3 flags -> mapping."""
    found = {}
    for entry in layers or []:
        name, _, value = entry.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UsageError("a layer's ratio is NAME=NUMBER", got=entry, fix="--layer model.4.cv1=0.3") from error
    return found
