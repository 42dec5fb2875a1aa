"""A whole machine reboots in the middle of a run, or loses its power: the run says so and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.faults import DEV, Rounds, hasten, listen, measure, measured, nothing_lost, struck, whole
from tests.lab.machine import Machine

pytestmark = pytest.mark.machine


@pytest.mark.parametrize("fault", ["reboot", "power cut"])
def test_bench_goes_on(lab_machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    hasten(monkeypatch)
    monkeypatch.setattr("toolchain.device.login.KEEPALIVE_S", 2.0)  # an emulated machine is slow to answer
    monkeypatch.setattr("toolchain.device.login.CONNECT_S", 15.0)
    told = listen(monkeypatch)
    kept: Rounds = {}
    strike, heal = lab_machine.reboot, lab_machine.wait_until_up
    if fault == "power cut":
        strike, heal = lab_machine.power_off, lab_machine.boot
    with struck(lambda: whole(tmp_path) >= 2, lambda: (kept.update(measured(tmp_path)), strike()), heal, 0.5):
        result = measure(tmp_path, replace(DEV, patience_s=400.0), rounds=6)
    assert "nothing was heard for 12 s" in told.text() or "the link was cut" in told.text()
    assert "  dev has rebooted: going on" in told.notes
    assert (result.rounds, result.sessions) == (6, 2)
    assert nothing_lost(kept, tmp_path)
