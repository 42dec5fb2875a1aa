"""Rights and journals of the power modes; whole changes are tested in tests/device/test_modes.py."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.lab.fake import boards
from toolchain.agent import journal, keeper, modes, nvpmodel


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    return boards.plant("orin-nano", tmp_path / "orin")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def job(root: Path, cache: Path, **request: Any) -> Any:
    return SimpleNamespace(root=str(root), cache=str(cache), memory={}, guard=None, request=request)


def test_modes_of_the_conf_with_other_numbers(orin: Path) -> None:
    assert nvpmodel.find(str(orin), "MODE_maxn_super") == ("MAXN_SUPER", 2)
    assert nvpmodel.default(str(orin)) == "25W"
    (orin / "etc/nvpmodel.conf").unlink()
    boards.put(orin, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN_SUPER >\n  < POWER_MODEL  ID=7  NAME=MODE_15W >")
    assert nvpmodel.find(str(orin), "maxn_super") == ("MAXN_SUPER", 0)
    assert nvpmodel.find(str(orin), "15W") == ("MODE_15W", 7)
    assert nvpmodel.find(str(orin), "25W") is None


def test_sudo_is_used_where_this_user_is_not_root(orin: Path, tmp_path: Path, user: None) -> None:
    boards.program(orin, "sudo")
    one = job(orin, tmp_path / "cache", name="25W", pin="jetson_clocks")
    answer = modes.set_mode(one)
    assert (answer["refused"], answer["before"], answer["now"]) == (None, "15W", "25W")
    assert modes.restore_mode(one) == {"problems": [], "commands": []}
    commands = [line.replace(str(tmp_path), "") for line in (orin / boards.STATE / "sudo.log").read_text().splitlines()]
    assert [" ".join(words.split()[:2]) for words in commands] == [
        "jetson_clocks --store", "nvpmodel -m", "jetson_clocks", "nvpmodel -m", "jetson_clocks --restore",
    ]  # fmt: skip


@pytest.mark.parametrize(("board", "name", "command"), [("orin-nano", "25W", "sudo nvpmodel -m 1")])
@pytest.mark.parametrize("sudo", [True, False])
def test_not_permitted_names_the_command(tmp_path: Path, user: None, board: str, name: str, command: str, sudo: bool) -> None:
    root = boards.plant(board, tmp_path / board)
    if sudo:
        boards.program(root, "sudo")
        boards.put(root, f"{boards.STATE}/no-sudo", "")
    answer = modes.set_mode(job(root, tmp_path / "cache", name=name))
    assert "not permitted" in answer["refused"]
    assert answer["command"] == command
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_governor_that_only_root_may_write(tmp_path: Path, user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    root = boards.plant("pi5", tmp_path / "pi5")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(journal, "open", refuse, raising=False)
    with pytest.raises(journal.NotPermittedError) as caught:
        journal.write(str(root), "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance")
    assert caught.value.command.startswith("echo performance | sudo tee ")


def test_a_keeper_that_does_not_start_changes_nothing(orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "START", "raise SystemExit(1)")
    answer = modes.set_mode(job(orin, tmp_path / "cache", name="25W"))
    assert "did not start" in answer["refused"]
    assert (orin / boards.STATE / "nvpmodel").read_text().strip() == "0"
    assert list((tmp_path / "cache").iterdir()) == []


def test_one_session_keeps_one_mode(orin: Path, tmp_path: Path) -> None:
    one = job(orin, tmp_path / "cache", name="25W")
    assert modes.set_mode(one)["refused"] is None
    assert "already" in modes.set_mode(one)["refused"]
    assert modes.restore_mode(one)["problems"] == []


def test_journal_of_another_machine_in_a_shared_home(orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = journal.place(str(orin), str(tmp_path))
    monkeypatch.setattr(journal.platform, "node", lambda: "another")
    assert journal.place(str(orin), str(tmp_path)) != path
    assert journal.heal_unless_held(str(orin), str(tmp_path)) is None


def test_lock_survives_that_its_file_is_taken_away(tmp_path: Path) -> None:
    path = str(tmp_path / "modes" / "x.json")
    held = journal.lock(path, 0.0)
    assert held is not None
    assert journal.lock(path, 0.0) is None
    journal.tidy(path)
    os.close(held)
    again = journal.lock(path, 0.0)
    assert again is not None
    assert os.path.exists(path + ".lock")
    os.close(again)
