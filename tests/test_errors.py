"""The drawing of the error tree is the tree."""

from __future__ import annotations

import inspect
import re

import pytest

from toolchain import errors
from toolchain.errors import ToolchainError, UnknownNameError

CLASSES = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, ToolchainError)}


def drawn() -> dict[str, tuple[str | None, int]]:
    """Name -> (parent, exit code), read from the docstring."""
    found: dict[str, tuple[str | None, int]] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)(\w+Error)\s+(\d+)\s", line)
        if match:
            depth = len(match[1]) // 4
            found[match[2]] = (above[depth - 1] if depth else None, int(match[3]))
            above[depth] = match[2]
    return found


def test_every_class_is_drawn_and_nothing_else() -> None:
    assert set(drawn()) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_parent_and_exit_code_are_as_drawn(name: str) -> None:
    parent, code = drawn()[name]
    cls = CLASSES[name]
    assert cls.exit_code == code
    assert cls.__mro__[1].__name__ == (parent or "Exception")


def test_only_failures_have_exit_codes_from_1() -> None:
    assert all(1 <= cls.exit_code < 126 for cls in CLASSES.values())  # 0 is success; 126 and up belong to the shell


def test_the_text_says_what_was_got_and_what_to_do() -> None:
    error = ToolchainError("it broke", got="x", fix="mend it")
    assert str(error) == "it broke\n  got: x\n  try: mend it"
    assert (error.what, error.got, error.fix) == ("it broke", "x", "mend it")
    assert str(ToolchainError("it broke")) == "it broke"
    assert "got: 0" in str(ToolchainError("it broke", got=0))  # a zero is a value


def test_unknown_names_suggest_the_nearest() -> None:
    assert "did you mean jetson-orin-nano?" in str(
        UnknownNameError("target", "jetson-orin-nanno", ["raspberry-pi-5", "jetson-orin-nano"])
    )
    assert "known: a, b" in str(UnknownNameError("strategy", "zzzzzz", ["b", "a"]))
