"""The whole job with TensorRT as the runtime: plans in bundles, FP16 and INT8 by the version, in every result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import TOML, make_job
from tests.tensorrt_fakes import lab
from toolchain.config import load_config
from toolchain.device.manifest import engine_of, verify
from toolchain.pipeline import run
from toolchain.stage import file_sha256, read_json

TENSORRT = TOML.replace("[bench]\n", '[bench]\nruntime = "tensorrt"\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "typing", "flags"),
    [
        ("10.3.0", "weak", {"dense": "FP16", "pruned": "FP16", "pruned-int8": "FP16 INT8"}),
        (lab.NEWEST, "strong", dict.fromkeys(("dense", "pruned", "pruned-int8"), "none")),
    ],
)
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, typing: str, flags: dict[str, str]) -> None:
    with lab.fake_machine(monkeypatch, lab.build_cudart(tmp_path), version):
        monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "device"))
        summary = run(load_config(make_job(tmp_path, TENSORRT), {}))
    stages = tmp_path / "run" / "stages"
    bench = read_json(stages / "bench" / "bench.json")["engines"]
    for label, names in flags.items():
        options, manifest = bench[label]["options"], verify(stages / "build" / label)
        assert (options["typing"], options["flags"]) == (typing, names)
        assert options["plan_sha256"] == file_sha256(engine_of(stages / "build" / label))
        assert manifest.precision == ("int8" if label == "pruned-int8" else "fp16")
        assert bench[label]["device_ms"]["n"] == bench[label]["latency_ms"]["n"]
    assert {row["label"]: row["map50"] is not None for row in summary["variants"]} == dict.fromkeys(flags, True)
