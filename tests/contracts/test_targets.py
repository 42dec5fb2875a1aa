"""Every file in targets/ keeps its promises; adding a device needs no Python."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from toolchain.agent import runtimes
from toolchain.cli import app
from toolchain.device.target import Target, list_targets, load_target
from toolchain.device.target_parts import Part, Stack
from toolchain.errors import ConfigError, UnknownNameError
from toolchain.resources import data_dir

TARGETS = list_targets()
RUNTIMES = {"onnxruntime", "tensorrt", "openvino", "ncnn", "hailort", "rknn"}


def test_the_devices_shipped() -> None:
    assert set(TARGETS) == {
        "host-cpu", "jetson-nano", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-orin-nano-4gb", "jetson-orin-nano-8gb",
        "jetson-orin-nx-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-thor-t4000",
        "jetson-thor-t5000", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-5-hailo-8l", "rk3588", "intel-n100",
        "amd-ryzen-embedded", "nvidia-dgpu",
    }  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.default_runtime in runtimes.names(), "the toolchain has no file for that runtime"
    assert set(target.runtimes) <= RUNTIMES
    assert "fp32" in target.precisions
    assert target.channel_alignment == max(target.alignment.values()) >= 4
    assert target.verified_on_hardware == (name == "host-cpu"), "claim it only with a run of this project behind it"


@pytest.mark.parametrize("name", TARGETS)
def test_the_default_runtime_rests_on_a_figure_or_says_that_there_is_none(name: str) -> None:
    target = load_target(name)
    driven = [figure for figure in target.published if figure.runtime in runtimes.names()]
    kinds = {(figure.network, figure.precision) for figure in driven}
    compared = [found for kind in kinds if len(found := [f for f in driven if (f.network, f.precision) == kind]) > 1]
    for figures in compared:
        assert min(figures, key=lambda figure: figure.latency_ms).runtime == target.default_runtime, figures
    said = target.source_of("default_runtime")
    assert said is not None
    assert said.startswith("published" if compared else "unmeasured there")


def sources_of(value: Any) -> list[str]:
    """Every source in a target, those inside its lists of tables too."""
    if isinstance(value, dict):
        own = [value["source"]] if isinstance(value.get("source"), str) else []
        return own + [text for inner in value.values() for text in sources_of(inner)]
    return [text for inner in value for text in sources_of(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", TARGETS)
def test_sources_can_be_followed(name: str) -> None:
    shown = load_target(name).to_json()
    texts = [*shown["sources"].values(), *sources_of(shown)]
    assert len(texts) > 9
    for text in texts:
        assert len(text) > 10, text
        assert not re.search(r"\b(S\d+[bcd]?|devices\.md|from memory|TODO)\b", text), f"nobody can look that up: {text}"


@pytest.mark.parametrize("name", TARGETS)
def test_power_counts_nothing_twice(name: str) -> None:
    """One rail is the total, or the total is a sum; every way to read it agrees; without one there is a reason."""
    power = load_target(name).power
    totals = [source for source in power.source if source.has_total]
    assert bool(totals) != bool(power.reason)
    for source in totals:
        assert bool(source.rails_of("total")) != bool(source.rails_of("+"))
    assert len({source.scope for source in totals}) <= 1
    if name != "host-cpu":  # one socket or two
        assert len({tuple(sorted(source.rails.items())) for source in totals}) <= 1
    if power.reason:
        assert "external meter" in str(power.detail)


@pytest.mark.parametrize(
    ("name", "total", "parts"),
    [
        ("jetson-nano", ["POM_5V_IN"], []),
        ("jetson-xavier-nx", ["VDD_IN"], []),
        ("jetson-orin-nano-8gb", ["VDD_IN"], []),
        ("jetson-agx-xavier", [], ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]),
        ("jetson-agx-orin-64gb", [], ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
        ("jetson-thor-t5000", ["VIN"], []),
        ("intel-n100", ["package-0"], []),
    ],
)
def test_rails_that_make_the_total(name: str, total: list[str], parts: list[str]) -> None:
    """Those on which others have counted wrongly."""
    for source in load_target(name).power.source:
        if source.has_total:
            assert (source.rails_of("total"), source.rails_of("+")) == (total, parts)


def test_boards_with_two_drivers_name_both() -> None:
    """JetPack 4 reads by iio, JetPack 5 by hwmon."""
    for name in ("jetson-xavier-nx", "jetson-agx-xavier"):
        assert [source.kind for source in load_target(name).power.source] == ["hwmon", "iio"]


def test_the_rails_beside_the_total_are_kept() -> None:
    beside = load_target("jetson-thor-t5000").power.source[1]
    assert not beside.has_total
    assert set(beside.rails) == {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"}


@pytest.mark.parametrize("name", TARGETS)
def test_modes_go_by_name(name: str) -> None:
    """A number means another mode in another release."""
    mode = load_target(name).mode
    assert mode is not None
    assert (mode.tool == "nvpmodel") == name.startswith("jetson-")
    assert not [word for word in mode.names if word.isdigit() or word.startswith("MODE_")]
    assert len(set(mode.names)) == len(mode.names)
    if mode.tool:
        assert mode.prefer
        assert mode.pin == "jetson_clocks"


def test_what_two_files_say_of_one_release_is_the_same() -> None:
    """Each file stands alone, so facts are repeated; they may not drift apart."""
    told: dict[str, tuple[str, Stack]] = {}
    for name in TARGETS:
        for stack in load_target(name).stack:
            first, known = told.setdefault(stack.name, (name, stack))
            assert stack == known, f"{stack.name} in {name} and {first}"


def test_no_release_of_l4t_belongs_to_two_stacks() -> None:
    stacks = (
        load_target("jetson-agx-xavier").stack + load_target("jetson-orin-nx-16gb").stack + load_target("jetson-thor-t5000").stack
    )
    known = {stack.name: stack for stack in stacks}.values()
    seen = {
        "32.6.1": "JetPack 4.6", "32.7.4": "JetPack 4.6.1 to 4.6.6", "35.4.1": "JetPack 5.1 to 5.1.6", "36.3.0": "JetPack 6.0",
        "36.4.0": "JetPack 6.1", "36.4.4": "JetPack 6.2 to 6.2.2", "38.2.1": "JetPack 7.0", "39.2.0": "JetPack 7.2",
    }  # fmt: skip
    for version, name in seen.items():
        assert [stack.name for stack in known if stack.covers(version)] == [name]
    assert not [stack for stack in known if stack.covers("28.2.1") or stack.covers("40.0")]


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
        ("max_hz = 5.0", "", ["power.source.0.max_hz: missing"]),
        ("update_ms = ", "update = ", ["update_ms: missing", "the file has power.source.0.update, which is unknown"]),
        ('update_ms = "measure"', 'update_ms = "often"', ["power.source.0.update_ms", "'often'", "'read' or 'measure'"]),
        ('kind = "vcgencmd_pmic"', 'kind = "iio"', ["power.source.0", 'kind "iio" needs paths']),
        ('kind = "vcgencmd_pmic"', 'kind = "rapl"\nchips = ["ina3221"]', ["power.source.0", 'kind "rapl" has no chips']),
        ('3V7_WL_SW = "+"', '3V7_WL_SW = "total"', ["power.source.0", "counted twice"]),
        ('3V7_WL_SW = "+"', '3V7_WL_SW = "sum"', ["power.source.0.rails.3V7_WL_SW", "'sum'", "'info'"]),
        ('requires = "group video"', 'requires = "sudo"', ["power.source.0.requires", "root|group"]),
        ("[mode]", '[power]\nreason = "no_sensor"\ndetail = "none"\n\n[mode]', ["power: wrong", "without a [[power.source]]"]),
        ("[mode]\n", '[mode]\nprefer = ["MAXN"]\n', ["mode", "prefer has MAXN, which names does not list"]),
        ("[mode]\n", '[mode]\nnames = ["MAXN"]\n', ["mode", "need a tool"]),
        ("[mode]\n", '[mode]\nverfy = ["gpu_min_eq_max"]\n', ["mode.verfy", "did you mean verify?"]),
        ('kind = "flags"', 'kind = "cooling"', ["sensors.throttle.0", '"type" belongs to kind "cooling"']),
        ('fatal = true', '', ["sensors.throttle.0.fatal: missing"]),
        ("sticky = [16,", "sticky = [15,", ["sensors.throttle.0", "15", "which bits does not name"]),
        ("max_mhz = { cpu", "max_mhz = { cpus", ["clocks.max_mhz.cpus", "'cpu'"]),
        ('compatible = ["raspberrypi,5-model-b"]\nsoc = "brcm,bcm2712"', "mem_gib = [1, 8]", ["match", "names nothing"]),
        ('soc = "brcm,bcm2712"', 'soc = "brcm,bcm2712"\nmem_gib = [16, 1]', ["match", "lowest, highest"]),
        ('\n[sources]', '\n[sources]\n"mode.pinn" = "nobody"', ["names what the file does not set", "did you mean mode.pin?"]),
        ('default_runtime = "ncnn"', 'default_runtime = "tensorrt"', ["tensorrt", "not among runtimes"]),
        ('[[published]]\nruntime = "ncnn"', '[[published]]\nruntime = "mnn"', ["published names mnn", "not among runtimes"]),
        ("latency_ms = 94.3", "latency_ms = 0.0", ["published.0.latency_ms", "greater than 0"]),
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


def test_a_device_without_a_sensor_says_so(tmp_path: Path) -> None:
    pi4 = (data_dir("targets") / "raspberry-pi-4.toml").read_text()
    for broken in (pi4.replace('reason = "no_sensor"\n', ""), re.sub(r"\[power\]\n.*\n.*\n", "[power]\n", pi4)):
        assert broken != pi4
        with pytest.raises(ConfigError, match=r"power: wrong[\s\S]*reason and detail why there is none"):
            load_target(write(tmp_path, broken, "raspberry-pi-4"))
    with pytest.raises(ConfigError, match="power: missing"):
        load_target(write(tmp_path, re.sub(r"\[power\]\n.*\n.*\n", "", pi4), "raspberry-pi-4"))


def test_sources_may_be_given_for_a_key_or_for_its_table(tmp_path: Path) -> None:
    """The nearest counts; nested or quoted is the same."""
    target = load_target("jetson-orin-nano-8gb")
    assert str(target.source_of("mode.default")).startswith("unconfirmed")
    assert str(target.source_of("mode.prefer")).startswith("third party")
    nested = valid().replace('"sensors.thermal" =', "sensors.thermal =")
    assert load_target(write(tmp_path, nested)).sources == load_target("raspberry-pi-5").sources
    with pytest.raises(ConfigError, match=r"\[sources\] lacks mode\.pin, mode\.verify"):
        load_target(write(tmp_path, re.sub(r"\nmode = .*", "", valid())))


def keys(model: Any) -> set[str]:
    """Of a table and of those inside it."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Part):
                found |= keys(inner)
    return found


def test_every_key_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs/targets.md").read_text()
    assert {"rails", "l4t", "sticky", "max_mhz", "mem_gib"} <= keys(Target)
    assert [key for key in sorted(keys(Target)) if not re.search(rf"`\[*([a-z]+\.)?{key}\]*`", page)] == []


def test_the_command_gives_json_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, valid())
    for arguments, expected in (
        (["raspberry-pi-5"], load_target("raspberry-pi-5").to_json()),
        ([str(path)], load_target("raspberry-pi-5").to_json()),
        ([], {"targets": TARGETS}),
    ):
        app(["targets", *arguments, "--json"], standalone_mode=False)
        assert json.loads(capsys.readouterr().out) == expected
