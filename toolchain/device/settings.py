"""On what an engine is to run: the settings that every call to a device shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class On:
    """One device, and how an engine runs there.

    Attributes:
        host: `local`, `user@addr[:port]` or a Host of the ssh config.
        runtime, provider: what loads the engine; another one is an error.
        threads: threads of the runtime inside one inference.
        python: command of Python there; None: python3, and for `local` the running interpreter.
        target: name of the target, or its TOML file; None: not said.
        patience_s: longest wait for the device after a lost link; 0: an error at once.
        wait_s: longest wait while someone else has the device.
    """

    host: str = "local"
    runtime: str = "onnxruntime"
    provider: str = "CPUExecutionProvider"
    threads: int = 2
    python: str | None = None
    target: str | None = None
    patience_s: float = 300.0
    wait_s: float = 0.0

    def engine_fields(self) -> dict[str, Any]:
        """What the agent must know to load an engine."""
        return {"runtime": self.runtime, "provider": self.provider, "threads": self.threads}


HERE = On()
