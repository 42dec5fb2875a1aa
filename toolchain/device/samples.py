"""Raw latencies on disk while a benchmark runs: whole after every round, so a lost link costs at most one round."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.device.engine_messages import Turn
from toolchain.errors import RunFolderError
from toolchain.stage import read_json, write_json

FOLDER = "samples"
IDENTITY = "identity.json"


@dataclass
class Samples:
    """All turns of one engine.

    Attributes:
        rounds: one entry a round, in order: {"session", "position", "start_s", "latency_ms", "rss_mb"}.
    """

    label: str
    sha256: str
    path: Path
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def add(self, turn: Turn, *, session: int, position: int) -> None:
        """Keep one turn: `position` is its place in the round's order."""
        self.rounds.append({"session": session, "position": position, **turn.model_dump()})

    def latencies_ms(self) -> list[list[float]]:
        """Samples by round, in the order they were taken."""
        return [entry["latency_ms"] for entry in self.rounds]

    def save(self) -> None:
        """Replace the file in one step."""
        about = {
            "label": self.label,
            "engine_sha256": self.sha256,
            "unit": "ms",
            "clock": "start_s: seconds, the device's monotonic clock",
        }
        write_json(self.path, {**about, "rounds": self.rounds})

    @staticmethod
    def load(path: Path, label: str, sha256: str) -> Samples:
        """What is there already; nothing for a missing file.

        Raises:
            RunFolderError: the file is damaged or belongs to another engine.
        """
        samples = Samples(label, sha256, path)
        if path.exists():
            data = read_json(path)
            try:
                if data["engine_sha256"] != sha256 or data["label"] != label:
                    raise RunFolderError("samples of another engine", got=str(path), fix="use another folder")
                for entry in data["rounds"]:
                    Turn.model_validate({key: entry[key] for key in ("start_s", "latency_ms", "rss_mb")})
                samples.rounds = list(data["rounds"])
            except (KeyError, TypeError, ValueError) as error:
                raise RunFolderError(
                    "damaged samples", got=f"{path}: {error}", fix="remove the folder and measure again"
                ) from error
        return samples


def open_samples(out: Path, engines: dict[str, str], identity: dict[str, Any]) -> list[Samples]:
    """The samples of every engine in `out`, all with the same number of whole rounds.

    Args:
        engines: label -> hash of the engine.
        identity: settings that must be the same for rounds to belong together.

    Raises:
        RunFolderError: `out` holds a benchmark of other engines or settings.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    expected = {"engines": engines, "settings": identity}
    path = out / IDENTITY
    if path.exists():
        if read_json(path) != expected:
            raise RunFolderError("the folder holds another benchmark", got=str(out), fix="use another folder, or remove this one")
    else:
        write_json(path, expected)
    samples = [Samples.load(folder / f"{label}.json", label, sha256) for label, sha256 in engines.items()]
    whole = min(len(one.rounds) for one in samples)
    for one in samples:
        del one.rounds[whole:]  # a round that was cut in the middle is measured again
    return samples
