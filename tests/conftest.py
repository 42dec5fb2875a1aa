from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.lab.fixtures"]


@pytest.fixture(autouse=True, scope="session")
def _own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This machine under a name of its own for this run of the tests: the lock on a device is for the whole machine. What is
    kept for the next time is kept for this run only."""
    root = tmp_path_factory.getbasetemp() / "root"
    root.symlink_to("/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_DEVICE_ROOT", str(root))
        patch.setenv("EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
