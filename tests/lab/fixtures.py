"""The lab's devices as fixtures, for all tests. Each is reachable as `dev`: $EDGE_SSH_CONFIG names its ssh config."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.arm import arm_making
from tests.lab.box import Box, Making, start_box
from tests.lab.machine import Machine, can_make_machines, start_machine
from tests.lab.network import NetDevice, Network, boxes
from tests.lab.sshd import Sshd, start_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One for all tests."""
    server = start_sshd(tmp_path_factory.mktemp("sshd") / "d")
    yield server
    server.end()


@pytest.fixture
def lab_ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """Tier A: an sshd on loopback; the device is this machine."""
    monkeypatch.setenv("EDGE_SSH_CONFIG", str(sshd.config))
    return sshd


@pytest.fixture
def make_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Box]]:
    """`make_box(memory="256M", disk="64m", fake=TREE, ...)`: fields of box.Making. The last one made is `dev`."""
    boxes: list[Box] = []

    def make(**fields: Any) -> Box:
        fields.setdefault("name", f"edge-box-{os.getpid()}-{len(boxes)}")  # the lock on a device goes by its name
        boxes.append(start_box(tmp_path / f"box{len(boxes)}", Making(**fields)))
        _own_disk(monkeypatch, boxes[-1].config)
        return boxes[-1]

    yield make
    for box in boxes:
        box.end()


@pytest.fixture
def lab_box(make_box: Callable[..., Box]) -> Box:
    """Tier A+: a device with its own disk and processes."""
    return make_box()


@pytest.fixture
def make_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Box]]:
    """`make_arm("cortex-a72", fake=TREE)`: see arm.arm_making. The last one made is `dev`."""
    with ExitStack() as stack:

        def make(core: str = "cortex-a76", **fields: Any) -> Box:
            box = start_box(tmp_path / f"arm-{core}", arm_making(tmp_path, core, **fields), tier="C")
            stack.callback(box.end)
            _own_disk(monkeypatch, box.config)
            return box

        yield make


@pytest.fixture
def lab_arm(make_arm: Callable[..., Box]) -> Box:
    """Tier C: a device with an aarch64 Debian, emulated."""
    return make_arm()


@pytest.fixture
def make_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Network]]:
    """`make_net(3, memory="256M", ...)`: devices `dev1` to `dev3`, each made as a box; the test is in their network then.

    With `core="cortex-a72"` they are aarch64 devices of arm.arm_making.
    """
    with ExitStack() as stack:

        def make(count: int = 1, *, core: str | None = None, **fields: Any) -> Network:
            making = arm_making(tmp_path, core, **fields) if core else Making(**fields)
            network = stack.enter_context(Network(tmp_path / "net", count, boxes(making)))
            stack.enter_context(network.entered())
            _own_disk(monkeypatch, network.config)
            return network

        yield make


@pytest.fixture
def lab_net(make_net: Callable[..., Network]) -> NetDevice:
    """Tier B: one device behind a wire that can be hurt."""
    return make_net()[0]


@pytest.fixture(scope="session")
def machine_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One machine for all tests."""
    can_make_machines()
    with Network(tmp_path_factory.mktemp("machine") / "net", 1, start_machine, "D") as network:
        yield network


@pytest.fixture
def lab_machine(machine_network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Tier D: a whole emulated machine behind a wire, switched on; mark its tests `machine`."""
    machine: Machine = machine_network[0]
    _own_disk(monkeypatch, machine_network.config)
    with machine_network.entered():
        machine.recover()
        yield machine


@pytest.fixture
def make_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """`make_machine(fake=TREE, board=(MODEL, COMPATIBLE, ...))`: another one, made as machine.start_machine says."""
    with ExitStack() as stack:

        def make(**fields: Any) -> Machine:
            can_make_machines()
            network = stack.enter_context(Network(tmp_path / "machine", 1, partial(start_machine, **fields), "D"))
            stack.enter_context(network.entered())
            _own_disk(monkeypatch, network.config)
            machine: Machine = network[0]
            return machine

        yield make


def _own_disk(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """The product finds the device, and keeps its files where it always does: in the home folder there."""
    monkeypatch.setenv("EDGE_SSH_CONFIG", str(config))
    monkeypatch.delenv("EDGE_DEVICE_CACHE", raising=False)
    monkeypatch.delenv("EDGE_DEVICE_ROOT", raising=False)
