"""Devices as data: `targets/NAME.toml`, every value with where it comes from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, computed_field, field_validator, model_validator

from toolchain.device.target_errors import explain, nearest
from toolchain.device.target_parts import (
    Clocks,
    MatchRule,
    Mode,
    Name,
    Part,
    Precision,
    Published,
    Sensors,
    Stack,
    WordList,
    Words,
)
from toolchain.device.target_power import Power
from toolchain.errors import ConfigError, UnknownNameError
from toolchain.resources import data_dir

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

UNSOURCED = ("name", "title", "verified_on_hardware", "sources")


class Target(Part):
    """One device.

    Attributes:
        verified_on_hardware: whether this project has run on it.
        arch: `uname -m` of the machines it stands for.
        runtimes: those that run networks there; the toolchain may not drive each of them yet.
        default_runtime: of those, the one to take. Its source says what that rests on, or begins with "unmeasured there".
        precisions: those that can pay there.
        alignment: precision -> channels of every convolution, in and out, should be a multiple of it.
        accelerators: beside the processor, as "gpu", "npu", "dla:0".
        input_layout: of the engine's input.
        notes: what else one must know, such as what INT8 needs there.
        published: latencies that the default runtime rests on.
        match: how it is recognised; None where it is only named by hand. As mode, sensors and clocks: None where not described.
        stack: releases of its software, oldest first.
        sources: dotted key, or the table that holds it -> where the value comes from. A source that begins with
            "unconfirmed" says that nobody vouches for the value. Entries of [[lists]] carry their own `source`.
    """

    name: Name
    title: Words
    verified_on_hardware: bool
    arch: list[Words] = Field(min_length=1)
    runtimes: list[Name] = Field(min_length=1)
    default_runtime: Name
    precisions: list[Precision] = Field(min_length=1)
    alignment: dict[Precision, int]
    accelerators: WordList
    input_layout: Literal["NCHW", "NHWC"]
    notes: WordList
    published: list[Published] = Field(default_factory=list)
    match: MatchRule | None = None
    stack: list[Stack] = Field(default_factory=list)
    power: Power
    mode: Mode | None = None
    sensors: Sensors | None = None
    clocks: Clocks | None = None
    sources: dict[str, Words]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def channel_alignment(self) -> int:
        """What a pruned width must be a multiple of so that no precision is left behind."""
        return max(self.alignment.values())

    @field_validator("sources", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """`mode.pin = "..."` and `"mode.pin" = "..."` say the same."""
        return dict(_leaves(value)) if isinstance(value, dict) else value

    @field_validator("alignment")
    @classmethod
    def _powers_of_two(cls, value: dict[Precision, int]) -> dict[Precision, int]:
        if wrong := {key: width for key, width in value.items() if not (0 < width <= 64 and width & (width - 1) == 0)}:
            raise ValueError(f"1, 2, 4 ... 64 for each precision, got {wrong}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if self.default_runtime not in self.runtimes:
            raise ValueError(f"default_runtime {self.default_runtime!r} is not among runtimes")
        if strangers := sorted({figure.runtime for figure in self.published} - set(self.runtimes)):
            raise ValueError(f"published names {', '.join(strangers)}, which is not among runtimes")
        if set(self.alignment) != set(self.precisions):
            raise ValueError("alignment must have the keys that precisions lists")
        written = [key for key, _ in _leaves(self.model_dump(exclude_unset=True)) if key.split(".")[0] not in UNSOURCED]
        written = [key for key in written if key not in type(self).model_computed_fields]
        if missing := [key for key in written if self.source_of(key) is None]:
            raise ValueError(f"[sources] lacks {', '.join(missing)}")
        useless = [key for key in self.sources if not any(_within(leaf, key) for leaf in written)]
        if useless:
            hints = [f"{key}{nearest(key, written)}" for key in useless]
            raise ValueError(f"[sources] names what the file does not set: {', '.join(hints)}")
        return self

    def source_of(self, key: str) -> str | None:
        """Where a value comes from: the source of its dotted key, else of the nearest table around it."""
        while key not in self.sources and "." in key:
            key = key.rpartition(".")[0]
        return self.sources.get(key)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return self.model_dump()


def _leaves(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key; lists of tables are left out, each of their entries has its own source."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif not (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield prefix + key, value


def _within(key: str, table: str) -> bool:
    return key == table or key.startswith(table + ".")


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
        raise explain(path, Target, data, error) from error
    if target.name != path.stem:
        raise ConfigError(f"{path}: name: must be the file's name", got=repr(target.name), fix=f'expected "{path.stem}"')
    return target
