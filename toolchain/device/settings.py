"""On what an engine is to run: the settings that every call to a device shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.device.target import load_target
from toolchain.errors import UnknownNameError
from toolchain.stage import file_sha256

USUAL = "onnxruntime"  # where no target names another

# the usual ones
PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU", "ncnn": "cpu", "tensorrt": "gpu:precision=fp16"}


@dataclass(frozen=True)
class On:
    """One device, and how an engine runs there.

    Attributes:
        host: `local`, `user@addr[:port]` or a Host of the ssh config.
        runtime: what loads the engine. Left out: the target's default, ONNX Runtime where no target is said.
        provider: its execution provider or device, with options or without ("NAME:KEY=VALUE,KEY=VALUE"); another one is an error.
            Left out: the runtime's usual one.
        threads: threads of the runtime inside one inference.
        python: command of Python there; None: python3, and for `local` the running interpreter.
        target: name of the target, or its TOML file; None: not said.
        patience_s: longest wait for the device after a lost link; 0: an error at once.
        wait_s: longest wait while someone else has the device.
        calibration: for TensorRT up to 10 with precision=int8 on a graph without Q/DQ: prepared pictures (.npy) or a calibration
            cache.
    """

    host: str = "local"
    runtime: str = ""
    provider: str = ""
    threads: int = 2
    python: str | None = None
    target: str | None = None
    patience_s: float = 300.0
    wait_s: float = 0.0
    calibration: Path | None = None

    def __post_init__(self) -> None:
        if not self.runtime:
            object.__setattr__(self, "runtime", load_target(self.target).default_runtime if self.target else USUAL)
        if not self.provider:
            if self.runtime not in PROVIDERS:
                raise UnknownNameError("runtime", self.runtime, PROVIDERS)
            object.__setattr__(self, "provider", PROVIDERS[self.runtime])

    def engine_fields(self) -> dict[str, Any]:
        """What the agent must know to load an engine."""
        fields = {"runtime": self.runtime, "provider": self.provider, "threads": self.threads}
        return fields if self.calibration is None else {**fields, "calibration_sha256": file_sha256(self.calibration)}


HERE = On()
