"""run.toml: the schema of a whole job, its defaults, and errors that name file, key, got and expected."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.device.pace import Pace, pace_of
from toolchain.device.settings import On
from toolchain.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN_WAIT_S = 3600.0  # a job of hours does not give up because somebody is measuring on its device


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PruneSection(Section):
    """How the cut is made. `ratio` is a share of multiply-adds for `flops`, of channels for the other strategies."""

    criterion: str = "fisher"
    strategy: str = "flops"
    ratio: float = Field(default=0.5, ge=0, lt=1)
    layers: dict[str, float] = Field(default_factory=dict)
    steps: int = Field(default=1, ge=1, le=20)
    step_epochs: int = Field(default=5, ge=1)
    align: int | None = Field(default=None, ge=1)  # None: the target's
    images: int | None = Field(default=None, ge=1)  # None: all training images
    guard: float = Field(default=0.0, ge=0)  # mAP a single group may cost in `sensitivity`; 0 switches the guard off
    compensate: Literal["none", "lsq", "bn", "both"] = "none"  # right after every cut, before training


class DistillSection(Section):
    """Weights of what the dense parent teaches. Off: measured, plain epochs are the better use of the time."""

    scores: float = Field(default=0.0, ge=0)
    boxes: float = Field(default=0.0, ge=0)


class TrainSection(Section):
    """Fine-tuning, by ultralytics' names; `extra` passes any other of its training keys through."""

    epochs: int = Field(default=60, ge=0)  # 0: no fine-tuning
    batch: int = Field(default=16, ge=1)
    lr0: float = Field(default=1e-3, gt=0)
    lrf: float = Field(default=0.01, gt=0)
    optimizer: str = "AdamW"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = Field(default=1.0, ge=0)
    cos_lr: bool = True
    patience: int = Field(default=0, ge=0)
    mosaic: float = Field(default=1.0, ge=0, le=1)
    close_mosaic: int = Field(default=10, ge=0)
    val_every: int = Field(default=5, ge=1)
    device: str = "cpu"
    distill: DistillSection = DistillSection()
    extra: dict[str, Any] = Field(default_factory=dict)


class ExportSection(Section):
    opset: int = 17
    dynamic_batch: bool = False
    simplify: bool = True
    short_dfl: bool | None = None  # the box softmax in the form that is quick in ONNX Runtime; None: where that is the runtime

    def for_runtime(self, runtime: str) -> ExportSection:
        """The same with nothing left open."""
        short = runtime == "onnxruntime" if self.short_dfl is None else self.short_dfl
        return self.model_copy(update={"short_dfl": short})


class QatSection(Section):
    """Training with the rounding in place, where calibration alone misses the gate. The rate is a tenth of fine-tuning's."""

    epochs: int = Field(default=0, ge=0)  # 0: no QAT
    batch: int = Field(default=16, ge=1)
    lr0: float = Field(default=1e-4, gt=0)
    device: str = "cpu"
    distill: DistillSection = DistillSection(scores=1.0, boxes=1.0)  # the float network is the teacher


class Int8Section(Section):
    enabled: bool = True
    recipe: str | None = None  # None: the one for the target and the runtime; "auto": the best of all
    max_drop: float = Field(default=0.01, ge=0)
    mixed: bool = False  # leave as many layers in float as max_drop asks for
    keep_float: list[str] = Field(default_factory=list)
    qat: QatSection = QatSection()


class SelectSection(Section):
    """How widths are chosen for a budget; see docs/selection.md."""

    strategy: str = "latency"
    precision: Literal["fp32", "fp16", "int8"] = "int8"
    samples: int | None = Field(default=None, ge=20)  # plans timed; None: 40 to 100, while the model gets better
    rounds: int = Field(default=4, ge=1)
    floor: float = Field(default=0.1, gt=0, lt=1)  # least kept share of any group
    depth: bool = True  # whole Bottlenecks may go
    criterion: str = "fisher"
    images: int | None = Field(default=None, ge=1)  # None: all training images
    value: Literal["fisher", "remaining", "measured"] = "remaining"  # of a width; see toolchain/selection/value.py
    check: int = Field(default=16, ge=0)  # random plans on which the summed values are compared with the real loss; 0: none
    models: list[Path] = Field(default_factory=list)  # other detectors to start from, beside `model`
    imgsz: list[int] = Field(default_factory=list)  # other picture sizes to choose from, beside `imgsz`
    trial_epochs: int = Field(default=10, ge=1)  # of training for each, where there are several starts
    energy_samples: int = Field(default=12, ge=6)  # plans whose energy is measured, where that has a budget
    energy_repeats: int = Field(default=3, ge=1)  # windows of each
    meter: str | None = None  # None: the target's own sensor; else as `toolchain bench --meter` takes it
    meter_scope: Literal["ac_wall", "dc_input"] = "ac_wall"
    stairs: int = Field(default=0, ge=0)  # groups whose widths are timed one by one around the plan, for the page


class BenchSection(Section):
    runtime: str = ""  # "": the target's default
    provider: str = ""  # "": the runtime's usual one
    threads: int = Field(default=2, ge=1)
    profile: Literal["quick", "search", "report"] = "quick"
    rounds: int | None = Field(default=None, ge=1)  # None: the profile's, as for runs
    runs: int | None = Field(default=None, ge=1)
    python: str | None = None

    def on(self, host: str = "local", target: str | None = None) -> On:
        """The device, and how engines run there."""
        return On(host, self.runtime, self.provider, self.threads, self.python, target, wait_s=RUN_WAIT_S)

    def pace(self) -> Pace:
        """How long and how often engines are timed."""
        return pace_of(self.profile, rounds=self.rounds, runs=self.runs)


class RunConfig(Section):
    """A whole job. Paths in a file are relative to the file's folder."""

    model: Path
    data: Path
    imgsz: int = Field(default=640, ge=32)
    out: Path = Path("runs/run")
    target: str = "host-cpu"
    host: str = "local"
    split: Literal["val", "test", "train"] = "val"
    seed: int = 0
    budget: list[str] = Field(default_factory=list)  # such as "latency=0.5x": widths are then chosen by what the device does
    prune: PruneSection = PruneSection()
    select: SelectSection = SelectSection()
    train: TrainSection = TrainSection()
    export: ExportSection = ExportSection()
    int8: Int8Section = Int8Section()
    bench: BenchSection = BenchSection()


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """A run.toml, if given, with flags on top; keys of flags are dotted ("prune.ratio").

    Raises:
        ConfigError: names the file, the key, what was got and what is expected.
    """
    values: dict[str, Any] = {}
    source = "command line"
    if path is not None:
        source = str(path)
        values = read_toml(path)
        for key in ("model", "data", "out"):
            if isinstance(values.get(key), str):
                values[key] = path.parent / Path(values[key]).expanduser()
    for key, value in overrides.items():
        if value is not None:
            _set(values, key.split("."), value)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        fix = "correct the keys named" if path is not None else "give a run.toml or the flags; see `toolchain run --help`"
        raise ConfigError(f"{source} does not describe a run", got=_explain(error), fix=fix) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Raises: ConfigError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError("cannot read the file", got=f"{path}: {error.strerror}", fix="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the file is not TOML", got=f"{path}: {error}", fix="one `key = value` a line, text in quotes"
        ) from error


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError("a section of the file is not a table", got=f"{part} = {values!r}", fix=f"[{part}]")
    values[path[-1]] = value


def _explain(error: ValidationError) -> str:
    """One line a mistake: key, what was got, what is expected, and the nearest key for an unknown one."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _keys(item["loc"][:-1]), n=1)
            lines.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"{key!r} is missing (give it in the file or as --{key})")
        else:
            lines.append(f"{key} = {item['input']!r}: {item['msg']}")
    return "; ".join(lines)


def _keys(path: tuple[int | str, ...]) -> list[str]:
    section: Any = RunConfig
    for part in path:
        section = section.model_fields[str(part)].annotation
    return list(section.model_fields)
