"""Calibration recipes: the TOML files of `calibration/`, read through a strict schema. A new recipe needs no code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from toolchain.errors import ConfigError, UnknownNameError
from toolchain.quantization.ranges import METHODS
from toolchain.quantization.rules import RULES
from toolchain.resources import data_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


AUTO = "auto"  # in place of a name: try them all


class Recipe(BaseModel):
    """How activations get their ranges.

    Attributes:
        method: a name of `METHODS`.
        percentile: kept share of the values in per cent, only for `percentile`.
        images: calibration pictures; all are used when there are fewer.
        seed: which pictures, when there are more.
        bias_images: of those, how many measure the shift of each layer's mean (`bias.py`); 0 leaves the biases alone.
        batch: pictures read at a time; memory grows with it, results do not change.
        runtimes: rows of `RULES` this was made for.
        default_for: rows of `RULES`, or names of targets, where this one is taken unless another is named.
        comment: when to take it.
        source: where the values come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    percentile: float | None = Field(default=None, gt=50, le=100)
    images: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    bias_images: int = Field(default=0, ge=0)
    batch: int = Field(default=1, gt=0)
    runtimes: tuple[str, ...] = Field(min_length=1)
    default_for: tuple[str, ...] = ()
    comment: str
    source: str

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(UnknownNameError("calibration method", value, METHODS))
        return value

    @field_validator("runtimes")
    @classmethod
    def _known_runtimes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in RULES:
                raise ValueError(UnknownNameError("quantization rules", name, RULES))
        return value

    @model_validator(mode="after")
    def _percentile_where_used(self) -> Recipe:
        if (self.percentile is not None) != (self.method == "percentile"):
            raise ValueError("`percentile` belongs to method 'percentile', and to no other")
        return self


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in data_dir("calibration").glob("*.toml"))


def recipes_for(rules: str) -> list[str]:
    """Names of the shipped recipes made for a row of `RULES`."""
    return [name for name in list_recipes() if rules in load_recipe(name).runtimes]


def default_recipe(rules: str, target: str | None = None) -> str:
    """Name of the shipped recipe for a target, else for a row of `RULES`.

    Raises:
        UnknownNameError: there is none for such rules.
    """
    chosen = {place: name for name in list_recipes() for place in load_recipe(name).default_for}
    for place in (target, rules):
        if place in chosen:
            return chosen[place]
    raise UnknownNameError("quantization rules", rules, RULES)


def load_recipe(recipe: str | Path) -> Recipe:
    """A shipped recipe by name, or any TOML file by path.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: not TOML, or a key or value the schema does not allow.
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        path = data_dir("calibration") / f"{recipe}.toml"
    if not path.is_file():
        raise UnknownNameError("calibration recipe", str(recipe), list_recipes())
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("not a TOML file", got=f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise ConfigError(f"calibration recipe {path.name}, {key}: {first['msg']}", got=repr(first["input"])) from error
