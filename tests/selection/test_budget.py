"""What is understood of a budget, and what is said of one that is not."""

from __future__ import annotations

import pytest

from toolchain.errors import UsageError
from toolchain.selection.budget import Budget, parse_budget, parse_budgets


@pytest.mark.parametrize(("text", "expected"), [
    ("latency=0.5x", Budget("latency", 0.5, True)), ("8ms", Budget("latency", 8.0, False)),
    ("latency=8.5 ms", Budget("latency", 8.5, False)), ("0.01s", Budget("latency", 10.0, False)),
    ("energy=12mJ", Budget("energy", 12.0, False)), ("size=1.5MB", Budget("size", 1.5e6, False)),
    ("size=.3x", Budget("size", 0.3, True)),
])  # fmt: skip
def test_understood(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(("text", "said"), [
    ("8", "a budget of 8, without a unit"), ("latency=8", "latency of 8, without a unit"), ("0.5x", "share of what"),
    ("latency=1.5x", "between 0 and 1"), ("latency=0x", "between 0 and 1"), ("power=3W", "no budget of this kind: power"),
    ("8 parsecs", "unknown unit"), ("size=8ms", "ms measures latency"), ("fast", "not a budget"), ("-8ms", "not a budget"),
    ("0ms", "above 0"),
])  # fmt: skip
def test_refused_with_what_was_understood(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_budget(text)


def test_one_of_each_kind() -> None:
    assert [b.kind for b in parse_budgets(["8ms", "size=1MB"])] == ["latency", "size"]
    with pytest.raises(UsageError, match="two budgets of one kind"):
        parse_budgets(["8ms", "latency=0.5x"])
    with pytest.raises(UsageError, match="no budget"):
        parse_budgets([])
