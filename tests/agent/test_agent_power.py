"""The agent's readers of power, on files as boards have them; units, rails, what is missing or may not be read."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from toolchain.agent import power, sysfs
from toolchain.agent.main import Job
from toolchain.agent.power import rail_files, refresh, sampler, source_nvml_energy, source_vcgencmd_pmic
from toolchain.agent.wire import AgentError

ORIN = {"VDD_IN": "total", "VDD_CPU_GPU_CV": "info", "VDD_SOC": "info"}


def write(root: Path, files: dict[str, object]) -> None:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def ina3221(root: Path, rails: list[tuple[str, int, int]], folder: str = "sys/class/hwmon/hwmon1", shunt: int = 5000) -> None:
    """(label, mV, mA) of each channel, as the driver of an Orin shows them."""
    files: dict[str, object] = {"name": "ina3221", "samples": 512, "update_interval": 430, "in7_label": "sum of shunt voltages"}
    files["in7_input"] = 26
    for number, (label, millivolt, milliampere) in enumerate(rails, 1):
        files |= {f"in{number}_label": label, f"in{number}_input": millivolt, f"curr{number}_input": milliampere}
        files |= {f"in{number + 3}_input": 9280, f"shunt{number}_resistor": shunt}
    write(root, {f"{folder}/{name}": value for name, value in files.items()})


def source(kind: str, rails: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"kind": kind, "rails": rails, "max_hz": 100.0, **more}


def hwmon(root: Path, rails: dict[str, str] | None = None) -> Any:
    return power.open_source(str(root), source("hwmon", rails or ORIN, chips=["ina3221"]))


def test_every_kind_of_the_schema_has_a_file() -> None:
    from toolchain.device.target_power import KINDS

    assert power.kinds() == sorted(KINDS)


def test_ina3221_is_millivolts_times_milliamperes(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 5016, 1856), ("VDD_CPU_GPU_CV", 5016, 400), ("VDD_SOC", 5016, 600)])
    reader = hwmon(tmp_path)
    assert (reader.unit, reader.rails, reader.averages) == ("W", list(ORIN), True)
    assert reader.read() == pytest.approx([9.309696, 2.0064, 3.0096])
    assert (reader.update_ms, reader.settings()["samples"]) == (430, 512)
    assert reader.quantum["VDD_IN"] == pytest.approx(0.008 * 5.016)
    assert reader.paths["VDD_IN"] == "/sys/class/hwmon/hwmon1/in1_input x /sys/class/hwmon/hwmon1/curr1_input"


def test_agx_orin_two_chips_unconnected_channels_and_a_part_that_is_not_summed(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_GPU_SOC", 19600, 200), ("VDD_CPU_CV", 19600, 40), ("VIN_SYS_5V0", 5000, 800)], shunt=2000)
    ina3221(tmp_path, [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 300), ("NC", 0, 0)], "sys/class/hwmon/hwmon2")
    rails = {"VDD_GPU_SOC": "+", "VDD_CPU_CV": "+", "VIN_SYS_5V0": "+", "VDDQ_VDD2_1V8AO": "info"}
    reader = hwmon(tmp_path, rails)
    assert reader.read() == pytest.approx([3.92, 0.784, 4.0, 1.5])
    assert reader.quantum["VDD_GPU_SOC"] == pytest.approx(0.392)


def test_a_negative_reading_is_kept(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 19600, -20)])
    assert hwmon(tmp_path).read() == pytest.approx([-0.392])


def test_links_and_i2c_folders_count_once(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000)], "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3")
    assert hwmon(tmp_path).read() == [5.0]
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    (tmp_path / "sys/class/hwmon/hwmon3").symlink_to(tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3")
    assert hwmon(tmp_path).read() == [5.0]


def test_a_sensor_that_is_gone_reads_as_none_and_is_found_under_its_new_number(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(rail_files, "LOOK_AGAIN_S", 0.0)
    ina3221(tmp_path, [("VDD_IN", 5000, 1000), ("VDD_SOC", 5000, 200)])
    reader = hwmon(tmp_path)
    chip = tmp_path / "sys/class/hwmon/hwmon1"
    chip.rename(tmp_path / "gone")
    assert reader.read() == [None, None]
    (tmp_path / "gone").rename(chip.with_name("hwmon4"))
    reader.read()
    assert reader.read() == [5.0, 1.0]


def test_eagain_is_none_and_never_zero(tmp_path: Path, monkeypatch: Any) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000), ("VDD_SOC", 5000, 200)])
    reader, real = hwmon(tmp_path), sysfs.read

    def read(root: str, path: str) -> str:
        if path.endswith("curr1_input"):
            raise BlockingIOError(11, "Resource temporarily unavailable", path)
        return real(root, path)

    monkeypatch.setattr(sysfs, "read", read)
    assert reader.read() == [None, 1.0]


@pytest.mark.parametrize("text", ["", "nonsense", "5.5", "\0"])
def test_no_number_is_none(tmp_path: Path, text: str) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000)])
    reader = hwmon(tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon1/in1_input").write_text(text)
    assert reader.read() == [None]


def refused(root: Path, asked: dict[str, Any]) -> power.UnreadableError:
    with pytest.raises(power.UnreadableError) as caught:
        power.open_source(str(root), asked)
    return caught.value


def test_why_a_source_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path, source("hwmon", ORIN, chips=["ina3221"])).reason == "no_sensor"
    ina3221(tmp_path, [("VDD_GPU", 5000, 1000)])
    error = refused(tmp_path, source("hwmon", ORIN, chips=["ina3221"]))
    assert (error.reason, "VDD_IN" in error.detail, "VDD_GPU" in error.detail) == ("unknown_rail_map", True, True)
    error = refused(tmp_path, source("hwmon", {"VDD_SOC": "info"}, chips=["ina3221"]))
    assert (error.reason, "VDD_SOC" in error.detail) == ("unknown_rail_map", True)
    for kind, more in (("iio", {"paths": ["/sys/bus/x"]}), ("ina", {"chips": ["ina238"]}), ("rapl", {}), ("vcgencmd_pmic", {})):
        assert refused(tmp_path, source(kind, {"X": "total"}, **more)).reason == "no_sensor"


def test_a_request_that_is_wrong(tmp_path: Path) -> None:
    for asked in ({"kind": "tegrastats", "rails": {"X": "+"}}, {"kind": "rapl"}, {"kind": "rapl", "rails": {}}, [], None):
        with pytest.raises(AgentError):
            power.open_source(str(tmp_path), asked)


def test_iio_is_milliwatts(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    names = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")
    write(tmp_path, {f"{folder}/rail_name_{n}": name for n, name in enumerate(names)})
    write(tmp_path, {f"{folder}/in_power{n}_input": 2345 + n for n in range(3)})
    rails = {"POM_5V_IN": "total", "POM_5V_CPU": "info"}
    reader = power.open_source(str(tmp_path), source("iio", rails, paths=["/sys/bus/i2c/drivers/ina3221x/6-004?/iio:device*"]))
    assert reader.read() == pytest.approx([2.345, 2.347])


def test_ina238_is_microwatts_by_its_label(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/hwmon/hwmon2/name": "ina238", "sys/class/hwmon/hwmon2/label": "VIN"})
    write(tmp_path, {"sys/class/hwmon/hwmon2/power1_input": 19780000})
    reader = power.open_source(str(tmp_path), source("ina", {"VIN": "total"}, chips=["ina238"]))
    assert (reader.unit, reader.read()) == ("W", [19.78])


def test_an_energy_register_is_preferred(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon2"
    write(tmp_path, {f"{chip}/name": "ina228", f"{chip}/power1_input": 1, f"{chip}/energy1_input": 2500000})
    reader = power.open_source(str(tmp_path), source("ina", {"INA228": "total"}, chips=["ina228"]))
    assert (reader.unit, reader.read()) == ("J", [2.5])


def test_two_chips_without_labels_are_not_told_apart_by_guessing(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path, {f"sys/class/hwmon/hwmon{number}/{k}": v for k, v in (("name", "ina226"), ("power1_input", 5))})
    error = refused(tmp_path, source("ina", {"BOARD": "total"}, chips=["ina226"]))
    assert (error.reason, "(no label)" in error.detail) == ("unknown_rail_map", True)


def rapl(root: Path, energy_uj: int = 5_000_000) -> None:
    zones = "sys/class/powercap"
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl-mmio:0", "package-0")):
        counter = energy_uj if zone == "intel-rapl:0" else 1
        write(root, {f"{zones}/{zone}/{k}": v for k, v in (("name", name), ("energy_uj", counter))})
        write(root, {f"{zones}/{zone}/max_energy_range_uj": 262143328850})


def test_rapl_is_a_counter_of_the_package_alone(tmp_path: Path) -> None:
    rapl(tmp_path)
    reader = power.open_source(str(tmp_path), source("rapl", {"package-0": "total", "core": "info"}))
    assert (reader.unit, reader.read(), reader.averages) == ("J", [5.0, 1e-6], False)
    assert reader.wrap_j == pytest.approx(262143.328851)
    assert "intel-rapl:0/energy_uj" in reader.paths["package-0"]


def test_rapl_for_root_only_says_how_to_mend_it(tmp_path: Path, monkeypatch: Any) -> None:
    rapl(tmp_path)
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    if os.geteuid() == 0:
        real = sysfs.read

        def read(root: str, path: str) -> str:
            if path.endswith("energy_uj"):
                raise PermissionError(13, "Permission denied", path)
            return real(root, path)

        monkeypatch.setattr(sysfs, "read", read)
    else:
        counter.chmod(0)
    error = refused(tmp_path, source("rapl", {"package-0": "total"}, requires="root"))
    assert (error.reason, "root" in error.detail) == ("permission", True)
    assert error.fix.startswith("sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj")


PMIC = """   3V7_WL_SW_A current(0)=0.09759820A
   VDD_CORE_A current(7)=0.86328000A
   3V7_WL_SW_V volt(8)=3.71842900V
   VDD_CORE_V volt(15)=0.72066830V
     EXT5V_V volt(24)=5.15398000V
      BATT_V volt(25)=0.00000000V
"""


def vcgencmd(root: Path, script: str) -> None:
    write(root, {"usr/bin/vcgencmd": "#!/bin/sh\n" + script})
    (root / "usr/bin/vcgencmd").chmod(0o755)


def test_pmic_pairs_amperes_with_volts(tmp_path: Path) -> None:
    assert set(source_vcgencmd_pmic.rails_of(PMIC)) == {"3V7_WL_SW", "VDD_CORE"}
    vcgencmd(tmp_path, f"[ \"$1\" = pmic_read_adc ] && cat <<'EOF'\n{PMIC}EOF\n")
    reader = power.open_source(str(tmp_path), source("vcgencmd_pmic", {"VDD_CORE": "+", "3V7_WL_SW": "+"}))
    assert reader.read() == pytest.approx([0.86328 * 0.7206683, 0.0975982 * 3.718429])
    vcgencmd(tmp_path, "exit 1")
    assert reader.read() == [None, None]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Can not open device file: /dev/vcio'; exit 255", "permission"),
        ("echo 'error=1 error_msg=Command not registered'; exit 255", "no_sensor"),
        ("exit 0", "no_sensor"),
    ],
)
def test_pmic_that_does_not_answer(tmp_path: Path, script: str, reason: str) -> None:
    vcgencmd(tmp_path, script)
    error = refused(tmp_path, source("vcgencmd_pmic", {"VDD_CORE": "+"}))
    assert error.reason == reason
    assert ("usermod -aG video" in error.fix) == (reason == "permission")


class Library:
    """NVML with GPUs {UUID: mJ}; None: no counter there."""

    def __init__(self, gpus: dict[str, int | None]) -> None:
        self.gpus = gpus

    def nvmlInit_v2(self) -> int:  # noqa: N802 - NVML's name
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetUUID(self, handle: ctypes.c_void_p, name: Any, size: Any) -> int:  # noqa: N802
        name.value = list(self.gpus)[(handle.value or 0) - 1].encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, energy: Any) -> int:  # noqa: N802
        value = list(self.gpus.values())[(handle.value or 0) - 1]
        energy._obj.value = value or 0
        return 0 if value is not None else 3


def test_nvml_is_millijoules_by_uuid(monkeypatch: Any) -> None:
    monkeypatch.setattr(source_nvml_energy, "load", lambda: Library({"GPU-a": 1500, "GPU-b": 2500}))
    assert power.open_source("/", source("nvml_energy", {"GPU-b": "total"})).read() == [2.5]
    error = refused(Path("/"), source("nvml_energy", {"gpu": "total"}))
    assert (error.reason, "GPU-a, GPU-b" in error.detail) == ("unknown_rail_map", True)
    one = Library({"GPU-a": 1500})
    monkeypatch.setattr(source_nvml_energy, "load", lambda: one)
    reader = power.open_source("/", source("nvml_energy", {"gpu": "total"}))
    assert (reader.unit, reader.read(), reader.settings()["uuid"]) == ("J", [1.5], "GPU-a")
    one.gpus["GPU-a"] = None
    assert reader.read() == [None]


def test_nvml_that_is_not_there_or_does_not_count(monkeypatch: Any) -> None:
    monkeypatch.setattr(source_nvml_energy, "load", lambda: Library({"GPU-a": None}))
    assert refused(Path("/"), source("nvml_energy", {"gpu": "total"})).reason == "no_sensor"
    monkeypatch.setattr(source_nvml_energy, "LIBRARY", "libnot-there.so.1")
    monkeypatch.undo()
    monkeypatch.setattr(source_nvml_energy, "LIBRARY", "libnot-there.so.1")
    assert "NVIDIA driver" in refused(Path("/"), source("nvml_energy", {"gpu": "total"})).fix


def test_nvml_of_an_old_driver_or_a_stub(monkeypatch: Any) -> None:
    """ctypes says so by an AttributeError, which must not end the agent."""

    class Old:
        def nvmlInit_v2(self) -> int:  # noqa: N802
            return 0

    monkeypatch.setattr(source_nvml_energy, "load", Old)
    error = refused(Path("/"), source("nvml_energy", {"gpu": "total"}))
    assert (error.reason, "nvmlDeviceGetTotalEnergyConsumption" in error.detail) == ("no_sensor", True)


def held(u: float, *, seconds: float = 5.2, hz: float = 100.0, keep: float = 1.0, seed: int = 0) -> tuple[list[float], list[Any]]:
    """Readings of a sensor of refresh u whose value changes at a share `keep` of its updates."""
    import random

    rng, phase = random.Random(seed), random.Random(seed).random() * u
    value, values = 0, []
    for _ in range(int(seconds / u) + 2):
        value += rng.random() < keep
        values.append(value)
    times = [n / hz for n in range(int(seconds * hz))]
    return times, [values[int((t + phase) / u)] for t in times]


@pytest.mark.parametrize("u", [0.043, 0.1, 0.43])
@pytest.mark.parametrize("keep", [1.0, 0.8])
def test_the_refresh_is_seen_by_the_changes(u: float, keep: float) -> None:
    for seed in range(5):
        found, why = refresh.refresh_s(*held(u, keep=keep, seed=seed))
        assert (found, why) == (pytest.approx(u, rel=0.06), None)


def test_registers_replaced_one_after_the_other_are_one_update() -> None:
    times, values = held(0.43)
    torn = [(value, values[max(0, index - 1)]) for index, value in enumerate(values)]
    assert refresh.refresh_s(times, torn)[0] == pytest.approx(0.43, rel=0.03)


def test_a_refresh_that_cannot_be_seen() -> None:
    assert refresh.refresh_s([n / 100 for n in range(300)], list(range(300))) == (pytest.approx(0.01), None)
    times = [n / 100 for n in range(300)]
    assert "changed only 0 times" in str(refresh.refresh_s(times, [5] * 300)[1])
    assert "readings" in str(refresh.refresh_s([0.0], [1])[1])


def job(root: Path, tmp_path: Path, memory: dict[str, Any] | None = None, **request: Any) -> Job:
    return Job({"id": 1, **request}, None, {} if memory is None else memory, str(tmp_path / "cache"), str(root))


def test_probe_tells_of_every_source(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000)])
    sources = [source("hwmon", {"VDD_IN": "total"}, chips=["ina3221"]), source("rapl", {"package-0": "total"})]
    first, second = sampler.probe(job(tmp_path, tmp_path, sources=sources, seconds=0.05))["sources"]
    assert (first["readable"], first["last"], first["update_ms"]) == (True, {"VDD_IN": 5.0}, 430)
    assert (second["readable"], second["reason"]) == (False, "no_sensor")


def test_sampling_writes_readings_and_gaps(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000), ("VDD_SOC", 5000, 200)])
    memory: dict[str, Any] = {}
    rails = {"VDD_IN": "total", "VDD_SOC": "info"}
    begin = time.monotonic()
    asked = source("hwmon", rails, chips=["ina3221"])
    said = sampler.start(job(tmp_path, tmp_path, memory, source=asked, interval_s=0.02, longest_s=60))
    assert said["rails"] == ["VDD_IN", "VDD_SOC"]
    with pytest.raises(AgentError, match="already"):
        sampler.start(job(tmp_path, tmp_path, memory, source=asked, interval_s=0.02, longest_s=60))
    time.sleep(0.2)
    (tmp_path / "sys/class/hwmon/hwmon1/curr2_input").unlink()
    time.sleep(0.2)
    left = sampler.stop(job(tmp_path, tmp_path, memory))
    rows = [json.loads(line) for line in Path(left["path"]).read_text().splitlines()]
    assert len(rows) == left["readings"]
    assert 0 < left["gaps"] < len(rows)
    assert (rows[0][1:], rows[-1][1:]) == ([5.0, 1.0], [5.0, None])
    times = [row[0] for row in rows]
    assert begin <= times[0] < times[-1] <= time.monotonic()
    assert times == sorted(set(times))
    with pytest.raises(AgentError, match="not sampling"):
        sampler.stop(job(tmp_path, tmp_path, memory))


def test_sampling_ends_by_itself_and_keeps_its_grid() -> None:
    class Slow:
        def read(self) -> list[float]:
            time.sleep(0.03 if len(times) == 3 else 0)
            return [1.0]

    times: list[float] = []
    begin = time.monotonic()
    sampler.sample(Slow(), 0.02, threading.Event(), lambda t, _: times.append(t), begin + 0.3)
    assert len(times) <= 15
    assert times[-1] < begin + 0.35


def test_a_full_disk_ends_the_sampling_with_its_reason(tmp_path: Path) -> None:
    ina3221(tmp_path, [("VDD_IN", 5000, 1000)])
    asked = source("hwmon", {"VDD_IN": "total"}, chips=["ina3221"])
    reader = power.open_source(str(tmp_path), asked)
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    one = sampler.Sampler(reader, "/dev/full", 0.005, time.monotonic() + 0.1)
    one._thread.join(5)
    with pytest.raises(OSError, match="No space left"):
        one.finish()


@pytest.mark.parametrize(
    "change", [{"interval_s": 0.001}, {"interval_s": True}, {"longest_s": 0}, {"longest_s": 1e9}, {"source": 3}]
)
def test_sampling_is_bounded(tmp_path: Path, change: dict[str, Any]) -> None:
    request = {"source": source("rapl", {"p": "total"}), "interval_s": 0.1, "longest_s": 60, **change}
    with pytest.raises(AgentError):
        sampler.start(job(tmp_path, tmp_path, **request))


@pytest.mark.parametrize(
    ("board", "target", "watts"),
    [("orin-nano", "jetson-orin-nano-8gb", 9.31), ("agx-orin", "jetson-agx-orin-64gb", 6.73), ("nano-jp4", "jetson-nano", 1.905),
     ("thor", "jetson-thor-t5000", 19.78), ("pi5", "raspberry-pi-5", 1.72)],
)  # fmt: skip
def test_the_shipped_targets_find_the_total_of_their_boards(tmp_path: Path, board: str, target: str, watts: float) -> None:
    from tests.lab.fake.boards import plant
    from toolchain.device.target import load_target

    plant(board, tmp_path)
    described = next(source for source in load_target(target).power.source if source.has_total)
    reader = power.open_source(str(tmp_path), described.model_dump())
    total = [value for rail, value in zip(reader.rails, reader.read(), strict=True) if described.rails[rail] != "info"]
    assert sum(total) == pytest.approx(watts, abs=0.01)
