"""Whose a benchmark's folder is: rounds of other engines or other settings never come into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.errors import RunFolderError
from toolchain.stage import read_json, write_json

IDENTITY = "identity.json"
LATER = ("picture", "rate_hz")  # settings of what may be measured later, or not again: None agrees with any value


def claim(out: Path, engines: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Make `out` the folder of this benchmark.

    Args:
        engines: label -> hash of the engine.
        settings: what must be the same for rounds to belong together.

    Raises:
        RunFolderError: it holds a benchmark of other engines or settings.
    """
    path, kept = out / IDENTITY, dict(settings)
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
    else:
        found = read_json(path)
        before = dict(found.get("settings", {}))
        for key in LATER:
            kept[key] = before.get(key) if kept[key] is None else kept[key]
            before[key] = kept[key] if before.get(key) is None else before[key]
        wrong = list(_differences(before, kept))
        if found.get("engines") != engines:
            wrong.append("the engines are others")
        if wrong:
            fix = "use another folder, or remove this one"
            raise RunFolderError("the folder holds another benchmark", got=f"{out}: {'; '.join(wrong)}", fix=fix)
    write_json(path, {"engines": engines, "settings": kept})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """In words, one for each setting."""
    for key in dict.fromkeys([*before, *now]):
        then, asked = before.get(key), now.get(key)
        if isinstance(then, Mapping) and isinstance(asked, Mapping):
            yield from (f"{key}.{wrong}" for wrong in _differences(then, asked))
        elif then != asked:
            yield f"{key} is {asked}, was {then}"
