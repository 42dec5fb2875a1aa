"""What the user wants to stay within: `latency=0.5x`, `8ms`, `energy=12mJ`, `size=1.5MB`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from toolchain.errors import UsageError

UNITS = {"ms": ("latency", 1.0), "s": ("latency", 1000.0), "mJ": ("energy", 1.0), "J": ("energy", 1000.0),
         "kB": ("size", 1e3), "MB": ("size", 1e6)}  # fmt: skip
KINDS = ("latency", "energy", "size")
WRITTEN = {"latency": ("ms", 1.0), "energy": ("mJ", 1.0), "size": ("MB", 1e6)}  # kind -> unit, and how much it is
FORM = re.compile(r"(?:([a-z]+)=)?([0-9]*\.?[0-9]+(?:e-?[0-9]+)?) *([A-Za-z]+)?")
FORMS = "latency=0.5x (half of the dense engine's), latency=8ms or 8ms, energy=12mJ, size=1.5MB; several may be given"


@dataclass(frozen=True)
class Budget:
    """At most this much.

    Attributes:
        kind: latency (ms), energy (mJ per inference) or size (bytes of the engine).
        value: in the kind's unit, or a share of the dense engine's.
        relative: whether `value` is a share.
    """

    kind: str
    value: float
    relative: bool

    def share_of(self, dense: float) -> float:
        """As a share of the dense engine's own cost, in the kind's unit."""
        return self.value if self.relative else self.value / dense

    @property
    def flag(self) -> str:
        """As it is written on a command line: `latency=0.5x`."""
        unit, scale = ("x", 1.0) if self.relative else WRITTEN[self.kind]
        return f"{self.kind}={self.value / scale:g}{unit}"

    def __str__(self) -> str:
        if self.relative:
            return f"{self.kind} at most {self.value:g} of the dense engine's"
        unit, scale = WRITTEN[self.kind]
        return f"{self.kind} at most {self.value / scale:g} {unit}"


def parse_budget(text: str) -> Budget:
    """Raises: UsageError saying what was understood and what is missing."""
    found = FORM.fullmatch(text.strip())
    if not found:
        raise UsageError("not a budget", got=repr(text), fix=FORMS)
    named, number, unit = found[1], float(found[2]), found[3]
    if named and named not in KINDS:
        raise UsageError(f"no budget of this kind: {named}", got=repr(text), fix=f"one of {', '.join(KINDS)}")
    if unit is None:
        understood = f"{named or 'a budget'} of {number:g}, without a unit"
        raise UsageError("a budget needs a unit", got=f"{text!r}: {understood}", fix=FORMS)
    if unit == "x":
        if not named:
            raise UsageError("a share of what?", got=repr(text), fix=f"latency={number:g}x")
        if not 0 < number < 1:
            raise UsageError("a share of the dense engine must be between 0 and 1", got=repr(text), fix="latency=0.5x is half")
        return Budget(named, number, True)
    if unit not in UNITS:
        raise UsageError("an unknown unit", got=f"{text!r}: {unit}", fix=f"one of x, {', '.join(UNITS)}")
    kind, scale = UNITS[unit]
    if named and named != kind:
        raise UsageError("the unit does not fit the budget", got=f"{text!r}: {unit} measures {kind}", fix=FORMS)
    if not number > 0:
        raise UsageError("a budget must be above 0", got=repr(text))
    return Budget(kind, number * scale, False)


def parse_budgets(texts: Iterable[str]) -> list[Budget]:
    """Raises: UsageError for none, a wrong one, or two of one kind."""
    budgets = [parse_budget(text) for text in texts]
    if not budgets:
        raise UsageError("no budget was given", fix=FORMS)
    kinds = [budget.kind for budget in budgets]
    if len(set(kinds)) < len(kinds):
        raise UsageError("two budgets of one kind", got=", ".join(str(b) for b in budgets), fix="keep the tighter one")
    return budgets
