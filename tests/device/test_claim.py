"""A folder is one benchmark's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolchain.device.claim import claim
from toolchain.errors import RunFolderError

ENGINES = {"one": "0" * 64}
SETTINGS: dict[str, Any] = {"threads": 2, "pace": {"runs": 20, "pass_s": 1.0}, "picture": None, "rate_hz": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 4}, "threads is 4, was 2"),
        ({"pace": {"runs": 5, "pass_s": 1.0}}, "pace.runs is 5, was 20"),
        ({"imgsz": 32}, "imgsz is 32, was None"),
    ],
)
def test_other_settings_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    claim(tmp_path / "out", ENGINES, SETTINGS)
    claim(tmp_path / "out", ENGINES, SETTINGS)
    with pytest.raises(RunFolderError, match=words):
        claim(tmp_path / "out", ENGINES, {**SETTINGS, **change})
    with pytest.raises(RunFolderError, match="engines"):
        claim(tmp_path / "out", {"one": "1" * 64}, SETTINGS)
    claim(tmp_path / "out", ENGINES, SETTINGS)


def test_what_was_not_measured_may_be_added_and_left_out_but_not_changed(tmp_path: Path) -> None:
    claim(tmp_path, ENGINES, SETTINGS)
    claim(tmp_path, ENGINES, {**SETTINGS, "rate_hz": 30.0})
    claim(tmp_path, ENGINES, {**SETTINGS, "picture": {"height": 10}})
    claim(tmp_path, ENGINES, SETTINGS)
    with pytest.raises(RunFolderError, match=r"rate_hz is 25\.0, was 30\.0"):
        claim(tmp_path, ENGINES, {**SETTINGS, "rate_hz": 25.0})
    with pytest.raises(RunFolderError, match=r"picture\.height is 11, was 10"):
        claim(tmp_path, ENGINES, {**SETTINGS, "picture": {"height": 11}})
