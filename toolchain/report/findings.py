"""What a check says: a title, how bad it is, the numbers behind it, what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "warning", "problem"]
ORDER: tuple[Severity, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. `numbers` maps a name to a value or to ready text."""

    title: str
    severity: Severity
    numbers: Mapping[str, float | int | str | None] = field(default_factory=dict)
    next: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `summary.json`."""
        return asdict(self)


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Problems first, otherwise in the order given."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))
