"""Every error the package raises on purpose. The tree, with the exit code of the command line:

ToolchainError                      1   something failed; the text says what, what was got, what to do
├── UsageError                      2   the request itself is wrong
│   ├── ConfigError                 2   a key of run.toml or a flag
│   └── UnknownNameError            2   a name that does not exist, with "did you mean"
├── ModelError                      3   the model file or network
│   ├── CheckpointError             3   missing, truncated, not a detector
│   ├── UnsafeCheckpointError       3   a .pt or .yaml that asks to run code
│   └── RewriteError                3   a block rewrite changed the outputs
├── DataError                       4   data YAML, images, labels
├── PruningError                    5   the cut
│   ├── NothingPrunedError          5   no channel would be removed
│   ├── AlignmentError              5   a conv is left with a width that is not aligned
│   └── PlanError                   5   a plan does not fit the model
├── TrainingError                   6   fine-tuning
├── ExportError                     7   ONNX
│   └── ParityError                 7   ONNX and torch disagree
├── QuantizationError               8   calibration, Q/DQ
│   └── AccuracyGateError           8   INT8 lost more mAP than allowed
├── DeviceError                     9   the host an engine runs on
│   ├── UnreachableError            9   no route, refused connection, unknown name
│   ├── HostKeyError                9   unknown or changed host key
│   ├── AuthenticationError         9   key or user refused
│   ├── RemoteTimeoutError          9   a deadline passed
│   ├── ConnectionLostError         9   the link was cut in the middle
│   ├── OutOfMemoryError            9   killed, or an allocation failed
│   ├── DiskFullError               9   no space left (here or on the device)
│   ├── RuntimeMissingError         9   no Python, no runtime, or another version
│   ├── ProviderError               9   the provider asked for is not the one used
│   ├── DeviceBusyError             9   somebody else holds the device, who is named
│   ├── PowerModeError              9   a power mode or pin was not taken, or not put back
│   ├── DeployError                 9   a bundle was not put into service; what was there stays
│   └── ProtocolError               9   the agent's answer is not what the protocol allows
├── MeasurementError               10   a result that must not be used
├── RunFolderError                 11   the run folder belongs to another job or is damaged
├── BudgetError                    12   a budget that cannot be met, or that contradicts another
└── TaskError                      13   some of many tasks failed; the others are done
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 4000


def printable(value: object) -> str:
    """A value as text that a terminal only shows: it may come from a file or a device that means no good."""
    text = str(value)
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ... ({len(text)} characters)"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in shown)


class ToolchainError(Exception):
    """Root of all errors raised on purpose.

    Args:
        what: what was wrong, one sentence.
        got: the offending value or state, if there is one to show.
        fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object = None, fix: str = "") -> None:
        self.what, self.got, self.fix = what, got, fix
        text = what if got is None else f"{what}\n  got: {printable(got)}"
        super().__init__(f"{text}\n  try: {fix}" if fix else text)


class UsageError(ToolchainError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownNameError(UsageError):
    """A name that is not among the known ones; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names[:40])}"
        super().__init__(f"unknown {kind}", got=repr(name), fix=hint)


class ModelError(ToolchainError):
    exit_code = 3


class CheckpointError(ModelError):
    pass


class UnsafeCheckpointError(ModelError):
    pass


class RewriteError(ModelError):
    pass


class DataError(ToolchainError):
    exit_code = 4


class PruningError(ToolchainError):
    exit_code = 5


class NothingPrunedError(PruningError):
    pass


class AlignmentError(PruningError):
    pass


class PlanError(PruningError):
    pass


class TrainingError(ToolchainError):
    exit_code = 6


class ExportError(ToolchainError):
    exit_code = 7


class ParityError(ExportError):
    pass


class QuantizationError(ToolchainError):
    exit_code = 8


class AccuracyGateError(QuantizationError):
    pass


class DeviceError(ToolchainError):
    """
    Attributes:
        reached: False if the login did not come about.
        boot_id: what the device's kernel called the boot it was in, where it is known.
    """

    exit_code = 9
    reached = True
    boot_id: str | None = None


class UnreachableError(DeviceError):
    pass


class HostKeyError(DeviceError):
    pass


class AuthenticationError(DeviceError):
    pass


class RemoteTimeoutError(DeviceError):
    pass


class ConnectionLostError(DeviceError):
    pass


class OutOfMemoryError(DeviceError):
    pass


class DiskFullError(DeviceError):
    pass


class RuntimeMissingError(DeviceError):
    pass


class ProviderError(DeviceError):
    pass


class DeviceBusyError(DeviceError):
    pass


class PowerModeError(DeviceError):
    pass


class DeployError(DeviceError):
    pass


class ProtocolError(DeviceError):
    pass


class MeasurementError(ToolchainError):
    exit_code = 10


class RunFolderError(ToolchainError):
    exit_code = 11


class BudgetError(ToolchainError):
    exit_code = 12


class TaskError(ToolchainError):
    exit_code = 13
