"""Devices as data: `targets/NAME.toml`, every value with where it comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolchain.errors import ConfigError, UnknownNameError
from toolchain.resources import data_dir

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Words = Annotated[str, Field(min_length=1)]
Scope = Literal["soc_rail", "module", "board_pmic_rails", "cpu_package", "gpu_board", "dc_input", "ac_wall"]
UNSOURCED = {"name", "title", "verified_on_hardware", "sources", "power"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Power(_Strict):
    """Where the device's total power can be read.

    Attributes:
        scope: what a reading covers; figures of different scope are never compared.
        sensor: what is read.
        rails: names of the rails whose sum is the total.
        excludes: what a reading does not see.
        requires: group or right that reading needs.
        max_hz: fastest sensible polling.
    """

    scope: Scope
    sensor: Words
    rails: list[Words] = Field(min_length=1)
    excludes: str | None = None
    requires: str | None = None
    max_hz: float | None = Field(default=None, gt=0)
    source: Words


class Target(_Strict):
    """One device.

    Attributes:
        arch: `uname -m` of the machines it stands for.
        runtimes, default_runtime: those the toolchain can drive there.
        precisions: those that can pay there.
        channel_alignment: channels of every pruned convolution should be a multiple of it.
        int8_notes: what INT8 needs there.
        input_layout: of the engine's input.
        power: None where no sensor is known.
        verified_on_hardware: whether this project has run on it.
        sources: key -> where the value comes from, for every value above.
    """

    name: Name
    title: Words
    verified_on_hardware: bool
    arch: list[Words] = Field(min_length=1)
    runtimes: list[Name] = Field(min_length=1)
    default_runtime: Name
    precisions: list[Literal["fp32", "fp16", "int8"]] = Field(min_length=1)
    channel_alignment: int = Field(ge=1, le=64)
    int8_notes: Words
    input_layout: Literal["NCHW", "NHWC"]
    power: Power | None = None
    sources: dict[str, Words]

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if self.default_runtime not in self.runtimes:
            raise ValueError(f"default_runtime {self.default_runtime!r} is not among runtimes")
        wanted = set(type(self).model_fields) - UNSOURCED
        if missing := sorted(wanted - set(self.sources)):
            raise ValueError(f"[sources] lacks {', '.join(missing)}")
        if unknown := sorted(set(self.sources) - wanted):
            raise ValueError(f"[sources] names unknown values: {', '.join(unknown)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return self.model_dump()


def list_targets() -> list[str]:
    """Names of the shipped targets."""
    return sorted(path.stem for path in data_dir("targets").glob("*.toml"))


def load_target(name_or_path: str | Path) -> Target:
    """A shipped target by name, or any TOML file by its path.

    Raises:
        UnknownNameError: no such target, with the nearest names.
        ConfigError: the file breaks the schema; names file, key, what was got and what is expected.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise ConfigError("no such target file", got=text, fix=f"known targets: {', '.join(list_targets())}")
    else:
        if text not in list_targets():
            raise UnknownNameError("target", text, list_targets())
        path = data_dir("targets") / f"{text}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML", got=str(error)) from error
    try:
        target = Target.model_validate(data)
    except ValidationError as error:
        raise _explain(path, error) from error
    if target.name != path.stem:
        raise ConfigError(f"{path}: name: must be the file's name", got=repr(target.name), fix=f'expected "{path.stem}"')
    return target


def mismatches(target: Target, probe: dict[str, Any]) -> list[str]:
    """What a probed machine (Probe as a dict) has that the target does not describe, in plain words; empty when it fits."""
    found = []
    if probe["arch"] not in target.arch:
        found.append(f"architecture {probe['arch']}, {target.name} is {' or '.join(target.arch)}")
    if not probe["runtimes"].get(target.default_runtime):
        reason = probe["unreadable"].get(f"runtimes.{target.default_runtime}", "not there")
        found.append(f"runtime {target.default_runtime}: {reason}")
    return found


def _explain(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "the whole file"
    expected = "; ".join(dict.fromkeys(item["msg"] for item in error.errors(include_url=False) if item["loc"] == first["loc"]))
    if first["type"] == "extra_forbidden":
        fields = Power.model_fields if key.startswith("power.") else Target.model_fields
        expected = f"no such key; known: {', '.join(fields)}"
    got = None if first["type"] in ("missing", "value_error") else repr(first["input"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigError(f"{path}: {key}: wrong{more}", got=got, fix=f"expected: {expected}")
