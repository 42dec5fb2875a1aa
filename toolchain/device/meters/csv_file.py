"""A meter whose own program writes a CSV file meanwhile: columns `timestamp` (unix, s), `watts`, perhaps `joules`."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.device.meters import LIMIT, Readings
from toolchain.device.session import AgentSession
from toolchain.errors import DataError, UsageError

LIMIT_BYTES = 256 << 20
FLUSH_S = 3.0  # its program may write a little behind


class CsvMeter:
    """Takes the rows that are added to the file while a repeat runs."""

    kind, own_clock, refresh_s = "csv", True, 1.0

    def __init__(self, text: str, flush_s: float = FLUSH_S) -> None:
        self.file, self.flush_s = Path(text).expanduser(), flush_s
        if not self.file.is_file():
            raise UsageError("the meter's file is not there", got=str(self.file), fix="start the program that writes it first")

    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "file": self.file.name}

    @contextmanager
    def running(self, session: AgentSession) -> Iterator[Readings]:
        readings, begin = Readings(own_clock=True), self.file.stat().st_size
        yield readings
        time.sleep(self.flush_s)
        try:
            self._take(readings, begin)
        except (DataError, OSError) as error:
            readings.problem = str(error).replace("\n  ", ", ")

    def _take(self, readings: Readings, begin: int) -> None:
        """All rows that begin behind byte `begin`."""
        with self.file.open("rb") as stream:
            header = stream.readline(4096).decode("utf-8", "replace").strip().lower().split(",")
            names = [name.strip() for name in header]
            if "timestamp" not in names or "watts" not in names:
                raise DataError("the meter's file has no columns timestamp and watts", got=",".join(names)[:200])
            stream.seek(max(begin, stream.tell()))
            data = stream.read(LIMIT_BYTES + 1)
        if len(data) > LIMIT_BYTES:
            raise DataError("the meter's file has grown too large", got=f"more than {LIMIT_BYTES} bytes")
        lines = data.decode("utf-8", "replace").split("\n")[:-1]  # the last may still be being written
        for row in csv.reader(lines):
            values = dict(zip(names, row, strict=False))
            try:
                t, watts = float(values["timestamp"]), float(values["watts"])
                joules = float(values["joules"]) if "joules" in names else None
            except (ValueError, KeyError):
                continue  # a gap
            if not math.isfinite(t) or not math.isfinite(watts) or len(readings.t_s) >= LIMIT:
                continue
            readings.t_s.append(t)
            readings.watts.append(watts)
            if joules is not None:
                readings.joules.append(joules)
