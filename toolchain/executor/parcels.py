"""Files of a task on their way: by hash through the object store to a node, and what it made back."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from toolchain import progress
from toolchain.executor.task import Outcome, Task
from toolchain.executor.worker import attempt_apart, use_threads
from toolchain.resources import cache_dir
from toolchain.stage import file_sha256, write_bytes

CACHE = "ray"


@dataclass(frozen=True)
class Parcel:
    """A file on its way: `contents` is a reference into the object store."""

    name: str
    sha256: str
    contents: Any

    def unpack(self) -> Path:
        """The file on this node, fetched once."""
        path = cache_dir(CACHE) / self.sha256 / self.name
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, fetch(self.contents))
        return path


@dataclass(frozen=True)
class Sent:
    """A task with its files.

    Attributes:
        files: keyword -> file.
        given: path in `out` -> file that is there already, such as a training's state.
        mark: a file in `out` by which a node knows that it sees that very folder.
    """

    task: Task
    files: dict[str, Parcel]
    given: dict[str, Parcel]
    mark: str


@dataclass(frozen=True)
class Answer:
    """What came of a task, and the files it made in `out`, where the driver cannot see them."""

    outcome: Outcome
    made: dict[str, bytes]

    def write(self, out: Path | None) -> None:
        """Put them where they belong."""
        for name, contents in self.made.items():
            assert out is not None
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(out / name, contents)


class Sender:
    """Packs tasks; each file goes into the object store once.

    Args:
        put: bytes -> reference.
    """

    def __init__(self, put: Callable[[bytes], Any]) -> None:
        self._put, self._sent, self._mark = put, dict[Path, Parcel](), f".here-{secrets.token_hex(8)}"
        self._marked: set[Path] = set()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for folder in self._marked:
            (folder / self._mark).unlink(missing_ok=True)

    def send(self, task: Task) -> Sent:
        """The task with references to all it reads."""
        given = {} if task.out is None else {name: self._parcel(path) for name, path in _inside(task.out)}
        if task.out is not None:
            (task.out / self._mark).touch()
            self._marked.add(task.out)
        return Sent(task, {name: self._parcel(path) for name, path in task.files.items()}, given, self._mark)

    def _parcel(self, path: Path) -> Parcel:
        if path not in self._sent:
            self._sent[path] = Parcel(path.name, file_sha256(path), self._put(path.read_bytes()))
        return self._sent[path]


def on_node(sent: Sent, threads: int) -> Answer:
    """Do a task on the node this process is on."""
    use_threads(threads)
    progress.plain()
    task = replace(sent.task, files={name: parcel.unpack() for name, parcel in sent.files.items()})
    if task.work is not None:
        task = replace(task, work=_own("work", str(task.work)))
    if task.out is None or (task.out / sent.mark).exists():
        return Answer(attempt_apart(task), {})
    with _filled(sent) as out:
        outcome = attempt_apart(replace(task, out=out))
        return Answer(outcome, {name: path.read_bytes() for name, path in _inside(out)})


@contextmanager
def _filled(sent: Sent) -> Iterator[Path]:
    """A folder of this node in place of `out`; gone afterwards, kept when the process dies, so that a second try goes on."""
    out = _own("out", f"{sent.mark} {sent.task.key}")
    for name, parcel in sent.given.items():
        if not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(out / name, fetch(parcel.contents))
    yield out
    shutil.rmtree(out)


def _own(kind: str, name: str) -> Path:
    folder = cache_dir(CACHE) / f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    return folder


def _inside(folder: Path) -> list[tuple[str, Path]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".here-"))
    return [(str(path.relative_to(folder)), path) for path in files]


def fetch(reference: Any) -> bytes:
    """Contents of a parcel."""
    import ray

    contents: bytes = ray.get(reference)
    return contents
