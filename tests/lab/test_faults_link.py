"""The link is hurt while something is under way: the cause is named, nothing measured is lost, and the work goes on."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import tinynet
from tests.lab.faults import (
    DEV,
    Rounds,
    Told,
    before,
    hasten,
    listen,
    measure,
    measured,
    nothing_lost,
    nothing_runs,
    struck,
    whole,
)
from tests.lab.network import NetDevice
from tests.lab.product import SHORT
from tests.lab.sshd import Sshd
from toolchain import errors
from toolchain.device import bundle, login
from toolchain.device.bench import Extras, bench
from toolchain.device.energy_request import EnergyRequest, Phases
from toolchain.device.infer import infer
from toolchain.device.recover import recover
from toolchain.device.remote import connect
from toolchain.predictions import Predictions, candidates

METER = "sh -c 'while :; do echo 5; sleep 0.1; done'"
SILENT = "nothing was heard for 3 s: the device is frozen, switched off, or its network is cut"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return listen(monkeypatch)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))  # where the device is this machine
    hasten(monkeypatch)


@pytest.mark.parametrize("fault", ["silent black hole", "cable pulled", "frozen board"])
def test_bench_goes_on(lab_net: NetDevice, told: Told, tmp_path: Path, fault: str) -> None:
    strike, heal = {
        "silent black hole": (lab_net.hole, lab_net.fill),
        "cable pulled": (lab_net.cut, lab_net.heal),
        "frozen board": (lab_net.freeze, lab_net.thaw),
    }[fault]
    kept: Rounds = {}
    with struck(lambda: whole(tmp_path) >= 2, lambda: (kept.update(measured(tmp_path)), strike()), heal, 4.5):
        result = measure(tmp_path)
    assert SILENT in told.text()
    assert told.notes[-1] == "  dev is back: going on"
    assert (result.rounds, result.sessions) == (12, 2)
    assert nothing_lost(kept, tmp_path)
    assert nothing_runs(lab_net), "what the old link left behind is ended"


@pytest.mark.parametrize("fault", ["silent black hole", "cable pulled", "frozen board"])
def test_energy_goes_on(lab_net: NetDevice, told: Told, tmp_path: Path, fault: str) -> None:
    """In the middle of the second window: the first is kept as it is, only the second is measured again."""
    strike, heal = {
        "silent black hole": (lab_net.hole, lab_net.fill),
        "cable pulled": (lab_net.cut, lab_net.heal),
        "frozen board": (lab_net.freeze, lab_net.thaw),
    }[fault]
    phases = Phases(idle_s=0.5, lead_in_s=0.3, window_s=1.5, updates=1, run_on_s=0.2)
    request = EnergyRequest(repeats=3, rate_hz=20.0, meter=f"command:{METER}", phases=phases)
    engines, window = {"one": tinynet.save_detector(tmp_path / "one.onnx")}, tmp_path / "bench/energy/one"
    kept: dict[str, bytes] = {}

    def strike_now() -> None:
        kept.update({str(path): path.read_bytes() for path in (window / "0").iterdir()})
        kept.update({str(path): path.read_bytes() for path in (tmp_path / "bench/samples").iterdir()})
        strike()

    with struck(lambda: told.notes.count("  energy on dev: window") == 2, strike_now, heal, 4.5):
        result = recover(
            lambda: bench(engines, tmp_path / "bench", DEV, SHORT, extras=Extras(aa_control=False, energy=request)), DEV
        )
    assert SILENT in told.text()
    assert "  dev is back: going on" in told.notes
    assert told.notes.count("  energy on dev: window") == 4
    assert len(result.engines["one"].energy["windows"]) == 3
    assert len(kept) == 4
    assert all(Path(path).read_bytes() == data for path, data in kept.items())
    assert nothing_runs(lab_net)


def test_link_reset_during_bench(lab_ssh: Sshd, told: Told, tmp_path: Path) -> None:
    kept: Rounds = {}
    with struck(lambda: whole(tmp_path) >= 2, lambda: (kept.update(measured(tmp_path)), lab_ssh.cut()), bool, 0):
        result = measure(tmp_path, replace(DEV, python=sys.executable))
    assert "the link was cut" in told.text()
    assert (result.rounds, result.sessions) == (12, 2)
    assert nothing_lost(kept, tmp_path)


def test_link_that_stays_dead(lab_net: NetDevice, told: Told, tmp_path: Path) -> None:
    with (
        struck(lambda: whole(tmp_path) >= 2, lab_net.hole, lab_net.fill, 60),
        pytest.raises(errors.ConnectionLostError, match=r"(?s)waited \d s.*no connection in time.*what was measured is kept"),
    ):
        measure(tmp_path, replace(DEV, patience_s=2.0))
    kept = measured(tmp_path)
    assert measure(tmp_path, rounds=12).sessions == 2, "the same command goes on later"
    assert nothing_lost(kept, tmp_path)


def pictures(folder: Path, count: int) -> Path:
    np.save(folder / "images.npy", tinynet.pictures(count))
    return folder / "images.npy"


def seen(folder: Path, images: Path) -> None:
    """The engine's own outputs came back whole."""
    rows, counts = candidates(tinynet.expected(np.load(images)))
    found = Predictions.load(folder / "out.npz")
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.rows, rows, rtol=1e-4, atol=1e-6)


def test_cut_during_upload(lab_net: NetDevice, told: Told, tmp_path: Path) -> None:
    engine, images = tinynet.save_detector(tmp_path / "one.onnx"), pictures(tmp_path, 100)
    lab_net.rate_kbit(800)
    size, first = images.stat().st_size, 100_000
    with struck(lambda: lab_net.counts()["to_device"]["bytes"] > first + size / 2, lab_net.cut, lab_net.heal, 4.5):
        recover(lambda: infer(engine, images, tmp_path / "out.npz", DEV), DEV)
    assert SILENT in told.text()
    seen(tmp_path, images)
    assert lab_net.counts()["to_device"]["bytes"] < first + 1.4 * size, "the upload did not start over"


def test_cut_during_download(lab_net: NetDevice, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, images, parts = tinynet.save_detector(tmp_path / "one.onnx"), pictures(tmp_path, 900), tmp_path / ".out.npz.parts"
    before(monkeypatch, "get", lambda: lab_net.rate_kbit(400), number=2)  # of the second part, which holds nearly all

    def halfway() -> bool:
        return sum(path.stat().st_size for path in parts.glob(".*.partial")) > 60_000

    with struck(halfway, lab_net.cut, lambda: (lab_net.rate_kbit(0), lab_net.heal()), 4.5):
        recover(lambda: infer(engine, images, tmp_path / "out.npz", DEV), DEV)
    assert SILENT in told.text()
    seen(tmp_path, images)
    assert told.asked.count("infer") == 2, "no part was made twice"
    assert not parts.exists()


def test_cut_during_build(lab_net: NetDevice, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, cut = tinynet.save_detector(tmp_path / "one.onnx"), [False]
    before(monkeypatch, "build", lambda: (cut.append(True), lab_net.cut()))
    about = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
    with struck(lambda: cut[-1], bool, lab_net.heal, 4.5):
        recover(lambda: bundle.build(engine, tmp_path / "bundle", DEV, **about), DEV)
    assert SILENT in told.text()
    assert told.asked.count("build") == 2
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_short_outage_is_not_even_noticed(lab_net: NetDevice, told: Told, tmp_path: Path) -> None:
    with struck(lambda: whole(tmp_path) >= 2, lab_net.cut, lab_net.heal, 0.5):
        assert measure(tmp_path).sessions == 1
    assert told.notes == []


def test_link_of_64_kbit(lab_net: NetDevice, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "KEEPALIVE_S", 2.5)  # 15 s: twice what the agent takes to get there
    lab_net.rate_kbit(64)
    (tmp_path / "data.bin").write_bytes(os.urandom(60_000))
    with connect("dev") as device, device.session() as session:
        session.put(tmp_path / "data.bin", timeout_s=10.0)
        assert session.request("state", timeout_s=20.0)["boot_id"]
    assert measure(tmp_path, rounds=2).sessions == 1
    assert told.notes == []


def test_latency_of_300_ms(lab_net: NetDevice, told: Told, tmp_path: Path) -> None:
    lab_net.delay(300)
    assert measure(tmp_path, rounds=2).rounds == 2
    assert told.notes == []
    assert lab_net.counts()["to_device"]["delayed"] > 0


def test_loss_of_5_percent(lab_net: NetDevice, told: Told, tmp_path: Path) -> None:
    lab_net.loss(0.05)
    assert measure(tmp_path, rounds=3).rounds == 3
    assert lab_net.count("lost") > 0


def test_nothing_runs_once_the_link_is_gone(lab_net: NetDevice) -> None:
    with connect("dev") as device, device.session(), device.session():
        assert not nothing_runs_now(lab_net)
    assert nothing_runs(lab_net)


def nothing_runs_now(device: NetDevice) -> bool:
    return not any(name.startswith("python") for name in device.processes().values())
