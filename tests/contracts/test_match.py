"""Every shipped target is found for its own board, and for no other."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.boards import BOARDS, GIB, STRANGERS, probe
from tests.lab.fake import boards
from toolchain.agent import probe as agent
from toolchain.device.match import check, lacks_runtime, match
from toolchain.device.messages import check as checked
from toolchain.device.state_messages import Probe
from toolchain.device.target import list_targets, load_target

MACHINES = [(name, fields) for name, machines in BOARDS.items() for fields in machines]


def test_every_target_that_can_be_found_has_a_board_here() -> None:
    assert set(BOARDS) == {name for name in list_targets() if load_target(name).match is not None}
    assert set(list_targets()) - set(BOARDS) == {"host-cpu"}, "only the machine itself is never proposed"


@pytest.mark.parametrize(("name", "fields"), MACHINES)
def test_a_board_finds_its_own_target(name: str, fields: dict[str, Any]) -> None:
    machine = probe(fields)
    found = match(machine)
    assert found.best == name, [fit.target for fit in found.fits]
    assert check(load_target(name), machine) == []
    evidence = " | ".join(found.fits[0].evidence)
    assert f"architecture: {fields['arch']}" in evidence
    assert any(text in evidence for text in [*fields.get("compatible", []), *fields.get("cpu_model", "").splitlines(), "GPU: "])
    others = {fit.target for fit in found.fits[1:]}
    assert others <= {"raspberry-pi-5", "intel-n100"}, (
        "a board with an accelerator is the board as well; nothing else is two things"
    )


@pytest.mark.parametrize("fields", STRANGERS.values(), ids=STRANGERS)
def test_none_fits_is_a_normal_answer(fields: dict[str, Any]) -> None:
    found = match(probe(fields))
    assert found.best is None
    assert found.to_json()["fits"] == []


def test_what_nearly_fits_is_named_with_what_does_not() -> None:
    found = match(probe(STRANGERS["Jetson Nano 2GB"]))
    assert (found.near[0].target, found.near[0].evidence) == ("jetson-nano", ["memory: 2 GiB, not 3 to 5 GiB"])
    assert match(probe(STRANGERS["a server"])).near == [], "the architecture alone is no likeness"


def test_the_machine_is_described_in_plain_words() -> None:
    device = match(probe(BOARDS["jetson-orin-nano-8gb"][1])).device
    for line in (
        "L4T: 36.4.4",
        "memory: 7.4 GiB",
        "GPUs: Orin (nvgpu)",
        "power modes: /etc/nvpmodel/nvpmodel_p3767_0003_super.conf",
    ):
        assert line in device
    assert "board: AZW EQ" in match(probe(BOARDS["intel-n100"][0])).device


def test_a_named_target_is_held_against_the_machine() -> None:
    orin = probe(BOARDS["jetson-orin-nx-16gb"][0])
    wrong = check(load_target("jetson-agx-orin-64gb"), orin)
    assert len(wrong) == 2, wrong
    assert "p3767-0000" in wrong[0]
    assert "not p3701-0005" in wrong[0]
    assert wrong[1] == "memory: 15 GiB, not 56 to 70 GiB"
    assert "architecture: aarch64, not x86_64" in check(load_target("intel-n100"), orin)
    assert check(load_target("host-cpu"), orin) == [], "it stands for any machine"


def test_a_key_the_machine_cannot_answer_is_not_fulfilled() -> None:
    fields = {**BOARDS["jetson-orin-nano-8gb"][0], "memory_total_bytes": None}
    assert check(load_target("jetson-orin-nano-8gb"), probe(fields)) == ["memory: unknown, not 7 to 9 GiB"]
    assert match(probe(fields)).best is None


def test_targets_of_ones_own_are_matched_too() -> None:
    own = load_target("jetson-orin-nano-8gb").model_copy(update={"name": "my-carrier"})
    found = match(probe({**BOARDS["jetson-orin-nano-8gb"][0], "memory_total_bytes": 8 * GIB}), [own])
    assert found.best == "my-carrier"


def test_flags_must_all_be_there() -> None:
    target = load_target("intel-n100")
    assert target.match is not None
    rule = target.match.model_copy(update={"flags": ["avx2", "avx_vnni"]})
    target = target.model_copy(update={"match": rule})
    assert check(target, probe({**BOARDS["intel-n100"][0], "cpu_flags": ["avx2"]})) == ["processor lacks avx_vnni"]
    assert check(target, probe({**BOARDS["intel-n100"][0], "cpu_flags": ["avx2", "avx_vnni"]})) == []


def test_the_runtime_is_asked_for_apart() -> None:
    target = load_target("raspberry-pi-5")
    there = {"version": "1.0.20261020", "providers": ["cpu"], "precisions": ["fp32"]}
    assert lacks_runtime(target, probe({"runtimes": {"ncnn": there}})) is None
    other = probe({"runtimes": {"onnxruntime": there, "ncnn": None}, "unreadable": {"runtimes.ncnn": "ImportError: none"}})
    assert lacks_runtime(target, other) == "runtime ncnn: ImportError: none"


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("orin-nano", "jetson-orin-nano-8gb"), ("agx-orin", "jetson-agx-orin-64gb"), ("nano-jp4", "jetson-nano"),
        ("thor", "jetson-thor-t5000"), ("pi5", "raspberry-pi-5"), ("n100", "intel-n100"), ("rk3588", "rk3588"), ("x86", None),
    ],
)  # fmt: skip
def test_a_board_played_from_files(board: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what the agent's probe reads to the target."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64" if board in ("n100", "x86") else "aarch64")
    assert match(checked(Probe, agent.probe(str(boards.plant(board, tmp_path))))).best == name


def test_a_hailo_is_told_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hailo-8 and Hailo-8L have the same device file."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    root = boards.plant("pi5-hailo", tmp_path)
    tool = root / "usr/bin/hailortcli"
    for kind, name in (("HAILO8L", "raspberry-pi-5-hailo-8l"), ("HAILO8", "raspberry-pi-5")):
        tool.write_text(f"#!/bin/sh\necho 'Executing on device: 0001:01:00.0\nDevice Architecture: {kind}'\n")
        tool.chmod(0o755)
        assert match(checked(Probe, agent.probe(str(root)))).best == name
