"""The lab's devices as fixtures, for all tests. Each is reachable as `dev`: $EDGE_SSH_CONFIG names its ssh config."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.sshd import Sshd, start_sshd, stop_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One for all tests."""
    server = start_sshd(tmp_path_factory.mktemp("sshd") / "d")
    yield server
    stop_sshd(server)


@pytest.fixture
def lab_ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """Tier A: an sshd on loopback; the device is this machine."""
    monkeypatch.setenv("EDGE_SSH_CONFIG", str(sshd.config))
    return sshd
