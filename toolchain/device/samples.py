"""Raw latencies on disk while a benchmark runs: whole after every round, so a lost link costs at most one round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.device.engine_messages import PacedTurn, Turn, WholeTurn
from toolchain.errors import RunFolderError
from toolchain.stage import read_json, write_json

FOLDERS: dict[type[Turn], str] = {Turn: "samples", WholeTurn: "end-to-end", PacedTurn: "paced"}


@dataclass
class Samples:
    """All passes of one engine.

    Attributes:
        kind: what one entry of `rounds` holds.
        rounds: one entry a round, in order: the fields of `kind`, the session, and the pass's position in the round.
    """

    label: str
    sha256: str
    path: Path
    kind: type[Turn] = Turn
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def add(self, turn: Turn, *, session: int, position: int) -> None:
        """Keep one pass: `position` is its place in the round's order."""
        self.rounds.append({"session": session, "position": position, **turn.model_dump()})

    def by_round(self, part: str = "latency_ms") -> list[list[float]]:
        """Samples by round, in the order they were taken."""
        return [entry[part] for entry in self.rounds]

    @property
    def file(self) -> str:
        """The file's name in the benchmark's folder."""
        return f"{self.path.parent.name}/{self.path.name}"

    def trtexec_times(self) -> list[dict[str, float]]:
        """The inferences in the shape of `trtexec --exportTimes`, ms on the device's monotonic clock.

        Compute is the whole call of the runtime. What is not measured apart (enqueue, copies to and from a GPU: the keys with
        Enq, H2d and D2h) is left out rather than given as 0; latencyMs is therefore computeMs.
        """
        runs = [run for entry in self.rounds for run in zip(entry["start_s"], entry["latency_ms"], strict=True)]
        return [
            {
                "startComputeMs": round(1000 * start_s, 4),
                "endComputeMs": round(1000 * start_s + ms, 4),
                "computeMs": ms,
                "latencyMs": ms,
            }
            for start_s, ms in runs
        ]

    def save(self) -> None:
        """Replace the file in one step."""
        about = {
            "label": self.label,
            "engine_sha256": self.sha256,
            "unit": "ms",
            "clock": "start_s, due_s: seconds, the device's monotonic clock",
        }
        write_json(self.path, {**about, "rounds": self.rounds})

    def read(self) -> Samples:
        """Itself, with what its file holds already.

        Raises:
            RunFolderError: the file is damaged or belongs to another engine.
        """
        if not self.path.exists():
            return self
        data = read_json(self.path)
        try:
            if data["engine_sha256"] != self.sha256 or data["label"] != self.label:
                raise RunFolderError("samples of another engine", got=str(self.path), fix="use another folder")
            for entry in data["rounds"]:
                self.kind.model_validate(entry)
            self.rounds = list(data["rounds"])
        except (KeyError, TypeError, ValueError) as error:
            fix = "remove the folder and measure again"
            raise RunFolderError("damaged samples", got=f"{self.path}: {error}", fix=fix) from error
        return self


def open_samples(out: Path, engines: dict[str, str], labels: Iterable[str], kind: type[Turn] = Turn) -> list[Samples]:
    """The samples of these engines in `out`, all with the same number of whole rounds.

    Args:
        engines: label -> hash of the engine.
    """
    folder = out / FOLDERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    samples = [Samples(label, engines[label], folder / f"{label}.json", kind).read() for label in labels]
    whole = min((len(one.rounds) for one in samples), default=0)
    for one in samples:
        del one.rounds[whole:]  # a round that was cut in the middle is measured again
    return samples
