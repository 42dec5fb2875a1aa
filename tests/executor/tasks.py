"""Small tasks for the tests: importable wherever they run, and they tell that they ran."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import ModelError, TaskError, UnknownNameError
from toolchain.executor.task import Executor, Task


def log(journal: str, *words: object) -> None:
    """One line, whole, from any process of this machine."""
    with open(journal, "a") as stream:
        stream.write(" ".join(map(str, words)) + "\n")


def add(a: int, b: int) -> int:
    return a + b


def work(journal: str, name: str, seconds: float = 0.0) -> dict[str, Any]:
    """Tells when it begins and ends, the process that started its process (on Ray, the node), and its own."""
    log(journal, "begin", name, os.getppid(), os.getpid())
    time.sleep(seconds)
    log(journal, "end", name, os.getppid(), os.getpid())
    return {"name": name, "pid": os.getpid()}


def die_once(journal: str, name: str) -> str:
    """Kills its process the first time."""
    log(journal, "begin", name, os.getppid())
    if Path(journal).read_text().split().count(name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def die(journal: str, name: str) -> None:
    log(journal, "begin", name, os.getppid())
    os.kill(os.getpid(), signal.SIGKILL)


def fail(kind: str) -> None:
    """An error of ours, one that cannot be pickled, a bug."""
    if kind == "ours":
        raise ModelError("the model is no good", got="this", fix="another")
    if kind == "name":
        raise UnknownNameError("criterion", "fischer", ["fisher"])
    raise ZeroDivisionError("a bug")


def read(model: Path, data: Path, work: Path) -> list[str]:
    """What the files hold; leaves something in the folder for what can be made again."""
    (work / "made").write_text("again")
    return [model.name, model.read_text(), data.read_text()]


def fill(out: Path) -> int:
    """Goes on counting where the folder's file stands; fails at three."""
    state = out / "sub" / "state"
    state.parent.mkdir(exist_ok=True)
    count = int(state.read_text()) + 1 if state.exists() else 1
    state.write_text(str(count))
    if count == 3:
        raise ModelError("three is too many")
    return count


def threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


def loud() -> str:
    print("not for stdout")
    return "said"


def tuples() -> Any:
    return (1, {2: (3,)})


def unfit() -> Any:
    return {1, 2}


def sleep(journal: str) -> None:
    """Says which process it is in, and stays a while."""
    log(journal, os.getpid())
    time.sleep(60)


def taken(executor: Executor, tasks: Sequence[Task]) -> tuple[dict[str, Any], str]:
    """Results by task until the error that must come, and its text."""
    got: dict[str, Any] = {}
    try:
        for task, result in executor.run(tasks):
            got[task.key] = result
    except TaskError as error:
        return got, str(error)
    raise AssertionError(f"no error: {got}")
