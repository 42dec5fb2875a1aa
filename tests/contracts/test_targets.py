"""Every file in targets/ keeps its promises; adding a device needs no Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.agent import runtimes
from toolchain.device.target import list_targets, load_target
from toolchain.errors import ConfigError, UnknownNameError
from toolchain.resources import data_dir

TARGETS = list_targets()
RUNTIMES = {"onnxruntime", "tensorrt", "openvino", "ncnn", "hailort", "rknn"}


def test_the_devices_shipped() -> None:
    assert {"host-cpu", "raspberry-pi-5", "raspberry-pi-4", "jetson-orin-nano-8gb", "jetson-nano", "intel-n100"} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.default_runtime in runtimes.names(), "the toolchain has no file for that runtime"
    assert set(target.runtimes) <= RUNTIMES
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
        valid().replace('name = "raspberry-pi-5"', 'name = "my-board"').replace("fp16 = 8, int8 = 8 }", "fp16 = 4, int8 = 4 }", 1)
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
        ("fp16 = 8", 'fp16 = "eight"', ["alignment.fp16", "'eight'", "integer"]),
        ("fp16 = 8", "fp16 = 12", ["alignment", "1, 2, 4", "'fp16': 12"]),
        ("fp16 = 8, ", "", ["alignment must have the keys that precisions lists"]),
        ('input_layout = "NCHW"', "", ["input_layout: missing", "expected: this key"]),
        ("input_layout =", "input_layuot =", ["input_layout: missing", "the file has input_layuot, which is unknown"]),
        ("max_hz = 5.0", "max_hz = 5.0\nmin_hz = 1.0", ["power.source.0.min_hz", "no such key", "did you mean max_hz?"]),
        ("excludes = [", "exclude = [", ["power.source.0.exclude", "did you mean excludes?", "negative_ok"]),
        ('scope = "board_pmic_rails"', 'scope = "wall"', ["power.source.0.scope", "'wall'", "ac_wall"]),
        ('default_runtime = "onnxruntime"', 'default_runtime = "tensorrt"', ["tensorrt", "not among runtimes"]),
        ("precisions = [", 'precisions = ["fp9", ', ["precisions.0", "fp9", "fp16"]),
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
