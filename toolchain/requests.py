"""From flags and run.toml sections to what the stages are asked: every check of a value a user typed is here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.config import PruneSection, QatSection, RunConfig, SelectSection, TrainSection, read_toml
from toolchain.errors import ConfigError, MeasurementError, RunFolderError, UsageError
from toolchain.measurement.stats import MIN_ROUNDS
from toolchain.selection.budget import parse_budgets
from toolchain.stage import read_json

if TYPE_CHECKING:
    from toolchain.device.energy_request import EnergyRequest
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


def labelled(engines: Sequence[str]) -> dict[str, Path]:
    """LABEL=PATH or PATH -> label -> path; a bare path is labelled by its name.

    Raises:
        UsageError: two engines with one label.
    """
    found: dict[str, Path] = {}
    for entry in engines:
        label, sign, path = entry.partition("=")
        name, file = (label, Path(path)) if sign else (Path(entry).stem, Path(entry))
        if name in found:
            raise UsageError("two files with the same label", got=name, fix="LABEL=PATH")
        found[name] = file
    return found


def runtimes_of(names: Sequence[str], provider: str, *, attach: bool) -> tuple[str, Sequence[str]]:
    """Flags of a benchmark -> its one runtime, and, where they are several, all of them ("all": those the device has).

    Raises:
        UsageError: several runtimes and what goes with one only.
    """
    if len(names) == 1 and names[0] != "all":
        return names[0], ()
    if provider or attach:
        flag = "--provider" if provider else "--attach"
        raise UsageError("several runtimes are asked for, and what goes with one", got=flag, fix="one --runtime")
    return "onnxruntime", names


def as_built(engines: Iterable[Path], runtime: str, provider: str) -> tuple[str, str]:
    """Runtime and provider asked for; where none was, those that the bundles among the engines were built for.

    Returns:
        two empty words where nothing says: the target's default it is then.

    Raises:
        UsageError: bundles for several runtimes, and none was asked for.
        RunFolderError: a damaged bundle.
    """
    from toolchain.device.manifest import verify

    if runtime:
        return runtime, provider
    found = {}
    for bundle in (path for path in engines if path.is_dir()):
        manifest = verify(bundle)
        own = manifest.conversion.provider if manifest.conversion else manifest.runtime.provider
        found[manifest.runtime.name, own] = bundle
    if len({name for name, _ in found}) > 1 or (len(found) > 1 and not provider):
        got = "; ".join(f"{bundle} for {name} ({own})" for (name, own), bundle in found.items())
        raise UsageError("bundles built for several runtimes or providers", got=got, fix="--runtime NAME, or one after the other")
    (name, own), *_ = [*found, ("", "")]
    return name, provider or own


def calibration(file: Path | None, runtimes: Sequence[str], provider: str) -> Path | None:
    """Flag of TensorRT's implicit INT8.

    Raises:
        UsageError: another runtime or precision, which would not read it, or no such file.
    """
    if file is None:
        return None
    if list(runtimes) != ["tensorrt"] or "precision=int8" not in provider.partition(":")[2].split(","):
        got = f"--runtime {' '.join(runtimes)} --provider {provider or '(the usual)'}"
        fix = "--runtime tensorrt --provider gpu:precision=int8; elsewhere INT8 is in the graph: toolchain quantize"
        raise UsageError("--calibration is for TensorRT's implicit INT8 alone", got=got, fix=fix)
    if not file.is_file():
        raise UsageError("the calibration's file does not exist", got=file, fix="toolchain quantize --trt-cache FILE writes one")
    return file


def bench_request(
    *, profile: str, rounds: int | None, runs: int | None, end_to_end: bool, energy: EnergyRequest | None, power_mode: str | None,
    pin_clocks: bool, keep_unstable: bool, accuracy: bool, data: Path | None, cool_down: float | None,
    start_temperature: float | None, rate_hz: float | None, export_times: bool, trtexec: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Flags -> what `verbs.bench` is asked beside engines and device.

    Raises:
        UsageError: accuracy without a data set, or a value out of range.
    """
    from toolchain.device.bench import Extras
    from toolchain.device.conditions import Conditions
    from toolchain.device.pace import PACES, pace_of

    if accuracy and data is None:
        raise UsageError("accuracy needs a data set", fix="--data DATA.yaml")
    if cool_down is None and start_temperature is not None:
        cool_down = PACES["report"].cool_down_s
    return {
        "pace": pace_of(profile, rounds=rounds, runs=runs, end_to_end=end_to_end or None, cool_down_s=cool_down),
        "extras": Extras(energy=energy, rate_hz=rate_hz, export_times=export_times, trtexec=trtexec),
        "conditions": Conditions(power_mode, pin_clocks, keep_unstable, start_temperature),
        "accuracy": accuracy,
        "data": data,
    }


def energy_request(
    profile: str, meter: str | None, meter_scope: Any, repeats: int, meter_error_percent: float | None = None,
    meter_error_w: float | None = None,
) -> EnergyRequest:  # fmt: skip
    """Flags -> how energy is measured: as long as a report is, or in the shorter phases of a search."""
    from toolchain.device.energy_request import EnergyRequest

    if meter_scope not in ("ac_wall", "dc_input"):
        raise UsageError("not what an external meter can see", got=meter_scope, fix="ac_wall or dc_input")
    return EnergyRequest(
        "report" if profile == "report" else "search", meter, meter_scope, repeats, meter_error_percent=meter_error_percent,
        meter_error_w=meter_error_w,
    )  # fmt: skip


def check_usable(bench: Mapping[str, Any]) -> None:
    """Raises: MeasurementError for a benchmark whose numbers must not be used, unless they were to be kept all the same."""
    if not bench["valid"] and not bench["conditions"]["keep_unstable"]:
        fix = "fix the clocks, cool the device, end other work there (toolchain doctor HOST); --keep-unstable records it, marked"
        fix = f"take at least {MIN_ROUNDS} rounds" if bench["rounds"] < MIN_ROUNDS else fix
        raise MeasurementError("the benchmark must not be used", got="; ".join(bench["reasons"]), fix=fix)


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
