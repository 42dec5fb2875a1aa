"""A Python for devices whose wall clock is wrong, or is set again and again."""

from __future__ import annotations

from pathlib import Path

from tests.lab.sshd import script

SET = """
import itertools, time
real, ahead = time.time, itertools.cycle(AHEAD_S)
time.time = lambda: real() + next(ahead)
"""
YEAR_S = 86400.0 * 365


def python_with_clock(folder: Path, *ahead_s: float) -> str:
    """An interpreter whose `time.time()` is ahead by each of these in turn; one alone: a clock that is just wrong."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SET.replace("AHEAD_S", repr(ahead_s)))
    return script(folder / "python", f'PYTHONPATH={folder} exec {{python}} "$@"')
