"""records.jsonl: one result a line, appended so that a killed process leaves every earlier line whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from toolchain.errors import MeasurementError

KINDS = ("latency", "end_to_end", "paced", "energy", "accuracy", "size")


@dataclass(frozen=True)
class Record:
    """One result.

    Attributes:
        kind: latency (inference alone), end_to_end (whole detections), paced (inferences at a rate), energy, accuracy or size.
        subject, subject_sha256: what was measured and the hash of its file.
        device: what it was measured on (the probe).
        state_before, state_after: device state around the measurement.
        value, unit: the headline number; None when it could not be had, with the reason in `reasons`.
        interval: two-sided 95 % (low, high), or None.
        samples_path: raw samples, relative to the records file.
        versions: version of every tool that can change the number.
        valid, reasons: whether the result may be used, and why not.
        extra: anything else worth keeping.
    """

    kind: str
    subject: str
    subject_sha256: str
    device: dict[str, Any]
    value: float | None
    unit: str
    interval: tuple[float, float] | None = None
    state_before: dict[str, Any] = field(default_factory=dict)
    state_after: dict[str, Any] = field(default_factory=dict)
    samples_path: str | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    valid: bool = True
    reasons: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MeasurementError(f"a record's kind must be one of {', '.join(KINDS)}", got=self.kind)
        if (self.value is None or not self.valid) and not self.reasons:
            raise MeasurementError("a record without a value, or not valid, must say why", got=self.subject)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Record:
        """Inverse of `to_json`; keys this version does not know are kept in `extra`.

        Raises:
            MeasurementError: a required key is missing or of the wrong kind.
        """
        known = {item.name for item in fields(Record)}
        values = {key: value for key, value in data.items() if key in known}
        values["extra"] = {**(data.get("extra") or {}), **{key: value for key, value in data.items() if key not in known}}
        if values.get("interval") is not None:
            values["interval"] = tuple(values["interval"])
        values["reasons"] = tuple(values.get("reasons") or ())
        try:
            return Record(**values)
        except TypeError as error:
            raise MeasurementError("not a record", got=str(error)) from error


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, open for reading and writing, held by this process alone."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _repair(stream: IO[bytes]) -> None:
    """End the file with a line break: complete a last line that only lacks it, cut off one that was torn."""
    stream.seek(0)
    data = stream.read()
    if not data or data.endswith(b"\n"):
        return
    start = data.rfind(b"\n") + 1
    if _whole(data[start:]):
        stream.write(b"\n")
    else:
        stream.truncate(start)


def append(path: Path, record: Record) -> None:
    """Add one line and force it to disk; a line torn by an earlier kill is cut off first."""
    line = json.dumps(record.to_json(), allow_nan=False).encode() + b"\n"
    with _locked(path) as stream:
        _repair(stream)
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def read_records(path: Path) -> list[Record]:
    """All whole records, in order; a torn last line is what a kill leaves and is passed over. No file: no records.

    Raises:
        MeasurementError: a line before the last is damaged.
    """
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    if last and _whole(last):
        lines.append(last)
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(Record.from_json(json.loads(line)))
        except (ValueError, AttributeError, MeasurementError) as error:
            fix = "remove that line; the others are whole"
            raise MeasurementError("a damaged line in the records", got=f"{path}:{number}: {error}", fix=fix) from error
    return records
