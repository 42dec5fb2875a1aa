"""Every file in targets/ keeps its promises; adding a device needs no Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolchain.agent import runtimes
from toolchain.device.target import list_targets, load_target, mismatches
from toolchain.errors import ConfigError, UnknownNameError
from toolchain.resources import data_dir

TARGETS = list_targets()


def test_the_devices_shipped() -> None:
    assert {"host-cpu", "raspberry-pi-5", "raspberry-pi-4", "jetson-orin-nano", "jetson-nano", "intel-n100"} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.runtimes) <= set(runtimes.names()), "the toolchain has no file for that runtime"
    offered = set(runtimes.find(target.default_runtime).PRECISIONS)
    assert set(target.precisions) <= offered
    assert "fp32" in target.precisions
    assert target.channel_alignment & (target.channel_alignment - 1) == 0
    assert target.verified_on_hardware == (name == "host-cpu"), "claim it only with a run of this project behind it"
    assert all(len(source) > 10 for source in target.sources.values())
    assert target.to_json()["sources"]


def valid() -> str:
    return (data_dir("targets") / "raspberry-pi-5.toml").read_text()


def write(folder: Path, text: str, name: str = "raspberry-pi-5") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_target_may_lie_anywhere(tmp_path: Path) -> None:
    text = (
        valid()
        .replace('name = "raspberry-pi-5"', 'name = "my-board"')
        .replace("channel_alignment = 8", "channel_alignment = 4", 1)
    )
    target = load_target(write(tmp_path, text, "my-board"))
    assert (target.name, target.channel_alignment) == ("my-board", 4)


def test_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="raspberry-pi-5"):
        load_target("rasbery-pi5")
    with pytest.raises(ConfigError, match="no such target file"):
        load_target("nowhere/x.toml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("channel_alignment = 8", 'channel_alignment = "eight"', ["channel_alignment", "'eight'", "integer"]),
        ("channel_alignment = 8", "channel_alignment = 0", ["channel_alignment", "0", "greater than or equal to 1"]),
        ("channel_alignment = 8", "", ["channel_alignment", "required"]),
        ("input_layout =", "input_layuot =", ["input_lay"]),
        ("max_hz = 5.0", "max_hz = 5.0\nmin_hz = 1.0", ["power.min_hz", "no such key", "max_hz"]),
        ('scope = "board_pmic_rails"', 'scope = "wall"', ["power.scope", "'wall'", "ac_wall"]),
        ('default_runtime = "onnxruntime"', 'default_runtime = "tensorrt"', ["tensorrt", "not among runtimes"]),
        ("precisions = [", 'precisions = ["fp8", ', ["precisions.0", "fp8", "fp16"]),
        ("\narch = \"64-bit", "\narhc = \"64-bit", ["sources", "lacks arch"]),
        ("verified_on_hardware = false", "verified_on_hardware = 0", ["verified_on_hardware", "boolean"]),
        ('name = "raspberry-pi-5"', 'name = "other"', ["name", "other", "raspberry-pi-5"]),
        ('name = "', 'name = ', ["not TOML"]),
    ],
)  # fmt: skip
def test_errors_name_file_key_and_what_is_expected(tmp_path: Path, old: str, new: str, says: list[str]) -> None:
    assert old in valid()
    path = write(tmp_path, valid().replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    for word in [str(path), *says]:
        assert word in str(caught.value)


def test_a_board_is_compared_with_its_description() -> None:
    probe: dict[str, Any] = {"arch": "aarch64", "runtimes": {"onnxruntime": {"version": "1"}}, "unreadable": {}}
    assert mismatches(load_target("raspberry-pi-5"), probe) == []
    assert "aarch64" in mismatches(load_target("intel-n100"), probe)[0]
    bare = {**probe, "runtimes": {"onnxruntime": None}, "unreadable": {"runtimes.onnxruntime": "ImportError: none"}}
    assert "ImportError" in mismatches(load_target("raspberry-pi-5"), bare)[0]
