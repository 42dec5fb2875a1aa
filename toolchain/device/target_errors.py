"""What is wrong with a target's file, in the words of the one who wrote it."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from toolchain.errors import ConfigError


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean X?", or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def explain(path: Path, model: type[BaseModel], data: object, error: ValidationError) -> ConfigError:
    """The first thing wrong in `data`: file, key, what was got and what is expected; and how many more there are."""
    found = [(_key(item, data), item) for item in error.errors(include_url=False)]
    key, first = found[0]
    same = [item for other, item in found if other == key]
    expected = "; ".join(
        dict.fromkeys(item["msg"].removeprefix("Value error, ").removeprefix("Input should be ") for item in same)
    )
    if first["type"] == "extra_forbidden":
        fields = _fields_at(model, first["loc"][:-1])
        expected = f"no such key{nearest(str(first['loc'][-1]), fields)}; known: {', '.join(fields)}"
    elif first["type"] == "missing":
        expected = f"this key, which every such table has{_unknown_like(key, [item for _, item in found])}"
    got = None if first["type"] in ("missing", "value_error") else repr(first["input"])
    wrong = "missing" if first["type"] == "missing" else "wrong"
    more = f" (and {len(found) - len(same)} more)" if len(found) > len(same) else ""
    return ConfigError(f"{path}: {key or 'the whole file'}: {wrong}{more}", got=got, fix=f"expected: {expected}")


def _key(item: ErrorDetails, data: object) -> str:
    """The dotted key as the file has it: pydantic's own place may end in the branch of a union or "[key]"."""
    known: list[str] = []
    for part in item["loc"]:
        try:
            data = data[part]  # type: ignore[index]
        except (LookupError, TypeError):
            break
        known.append(str(part))
    return ".".join([*known, str(item["loc"][-1])] if item["type"] == "missing" else known)


def _unknown_like(key: str, found: list[ErrorDetails]) -> str:
    """A misspelt key shows up twice, as missing and as unknown: name the one beside the other."""
    unknown = [".".join(map(str, item["loc"])) for item in found if item["type"] == "extra_forbidden"]
    near = difflib.get_close_matches(key, unknown, n=1, cutoff=0.6)
    return f"; the file has {near[0]}, which is unknown" if near else ""


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the keys known at this place."""
    kind: object = model
    for part in loc:
        if isinstance(part, str) and isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = _model_in(kind.model_fields[part].annotation)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _model_in(annotation: object) -> object:
    """The table class in `X`, `X | None` or `list[X]`."""
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not type(None)), None)
    return annotation
