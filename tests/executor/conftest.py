"""A real Ray cluster of two nodes on this machine, gone at the end whatever happens."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # short: the paths of its sockets may not be long
    before, os.environ["RAY_TMPDIR"] = os.environ.get("RAY_TMPDIR"), folder
    made = Cluster(shutdown_at_exit=True)
    try:
        made.add_node(**NODE)
        made.add_node(**NODE)
        made.wait_for_nodes()
        yield made
    finally:
        import ray

        ray.shutdown()
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
