"""What a selection cost: stages add up, survive a stop, and each has its own peak of memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from toolchain import memory
from toolchain.memory import peak_memory
from toolchain.selection import spent


def use(mb: int) -> None:
    np.ones(mb * 125_000)


@pytest.mark.skipif(not memory.CLEAR_REFS.exists(), reason="Linux alone takes a peak back")
def test_a_peak_belongs_to_its_block_and_to_those_around_it() -> None:
    with peak_memory() as outer:
        with peak_memory() as large:
            use(200)
        with peak_memory() as small:
            use(20)
    assert large.peak_mb is not None
    assert large.before_mb is not None
    assert small.peak_mb is not None
    assert large.peak_mb - large.before_mb > 180
    assert small.peak_mb < large.peak_mb - 100
    assert outer.peak_mb == large.peak_mb


def test_blocks_of_equal_numbers_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmHWM:\t     500 kB\nVmRSS:\t     400 kB\n")
    monkeypatch.setattr(memory, "STATUS", status)
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "clear_refs")
    with peak_memory() as outer:
        with peak_memory():
            pass
        with peak_memory():
            pass
        status.write_text("VmHWM:\t     900 kB\nVmRSS:\t     400 kB\n")
    assert outer.peak_mb == pytest.approx(900 * 1024 / 1e6)


def test_where_the_system_does_not_tell_there_is_a_reason_and_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    with peak_memory() as found:
        use(1)
    assert found.peak_mb is None
    assert "does not tell" in str(found.why)


def test_a_second_belongs_to_the_innermost_stage_and_the_device_waits_while_the_host_makes_engines(tmp_path: Path) -> None:
    with spent.account(tmp_path) as ledger, spent.stage("rounds"):
        with spent.device():
            time.sleep(0.2)
            with spent.device(at_work=False):
                time.sleep(0.1)
        with spent.stage("solver"):
            time.sleep(0.3)
        with spent.device(at_work=False):  # nothing was to be measured
            time.sleep(0.1)
        spent.count(2, 1)
    rounds, solver = ledger.to_json()
    assert (rounds["stage"], solver["stage"]) == ("rounds", "solver")
    assert rounds["wall_s"] >= 0.4
    assert solver["wall_s"] >= 0.3
    assert rounds["device_s"] == pytest.approx(rounds["wall_s"] - 0.2, abs=0.09)
    assert (rounds["done"], rounds["kept"], solver["device_s"]) == (2, 1, 0)


def test_what_a_stopped_run_spent_is_told_apart_from_this_one(tmp_path: Path) -> None:
    def stopped() -> None:
        with spent.account(tmp_path), spent.stage("timing"):
            time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with spent.account(tmp_path) as ledger, spent.stage("timing"):
        spent.count(0, 100)
    (row,) = ledger.to_json()
    assert row["earlier_wall_s"] >= 0.05
    assert row["wall_s"] < row["earlier_wall_s"]
    assert row["kept"] == 100


def test_nothing_is_counted_where_no_ledger_is_open(tmp_path: Path) -> None:
    with spent.stage("timing"), spent.device():
        spent.count(1, 1)
    assert not list(tmp_path.iterdir())
