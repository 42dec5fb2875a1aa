"""A stage is a function from files and parameters to a folder of files: whole or absent, and never done twice.

A stage works in `NAME.partial-KEY` beside its final place and is renamed to `NAME` once its files and `stage.json` are on disk.
KEY is a hash over the inputs' contents, the parameters and the stage's version: the same job resumes, a changed one re-runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from toolchain.errors import DiskFullError, RunFolderError

TOOLS = ("edge-toolchain", "ultralytics", "torch", "torch-pruning", "onnx", "onnxruntime", "numpy")


def file_sha256(path: Path) -> str:
    """Hex digest of a file's contents, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tool_versions() -> dict[str, str | None]:
    """Version of every tool that can change a number; None when it is not installed."""
    versions: dict[str, str | None] = {}
    for name in TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` in one step: a reader, or a power cut, sees the old file or the new one.

    Raises:
        DiskFullError: no space left; the old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _explain(error, path) from error


def write_json(path: Path, value: object) -> None:
    """Atomic, indented JSON."""
    write_bytes(path, (json.dumps(value, indent=1, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        RunFolderError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError("cannot read a file of the run", got=f"{path}: {error}", fix="delete that stage's folder") from error


def append_line(path: Path, entry: Mapping[str, Any], *, allow_nan: bool = True) -> None:
    """One line of JSON, on the disk when this returns; one torn by a kill before it is ended first."""
    line = json.dumps(entry, allow_nan=allow_nan)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as stream:
        stream.write(("\n" if torn else "") + line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of `append_line`; a torn one is passed over, no file is none."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _explain(error: OSError, path: Path) -> Exception:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left", got=str(path), fix="free some space and run the same command: finished stages stay")
    return RunFolderError("cannot write", got=f"{path}: {error}")


def _fingerprint(value: Path | str) -> str:
    """Contents of a file or folder (sorted), or the string itself."""
    if isinstance(value, str):
        return value
    if value.is_dir():
        files = sorted(path for path in value.rglob("*") if path.is_file())
        return hashlib.sha256("".join(f"{p.relative_to(value)}:{file_sha256(p)}\n" for p in files).encode()).hexdigest()
    return file_sha256(value)


@dataclass(frozen=True)
class Stage:
    """A finished stage."""

    name: str
    folder: Path
    reused: bool
    duration_s: float
    result: dict[str, Any]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@dataclass(frozen=True)
class Begun:
    """A stage whose work is to be done in `folder`, or to go on there."""

    name: str
    key: str
    folder: Path
    inputs: dict[str, str]
    params: dict[str, Any]
    started_unix: float
    clock_s: float


class Stages:
    """The stages of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        name: str,
        work: Callable[[Path], dict[str, Any]],
        *,
        inputs: Mapping[str, Path | str],
        params: Mapping[str, Any],
        keep_outputs: tuple[str, ...] = (),
    ) -> Stage:
        """Do `work(folder)` unless the same work is already there.

        Args:
            name: folder name of the stage.
            work: writes its files into the folder it is given and returns what to remember (JSON).
            inputs: files or folders (hashed by content) or strings.
            params: everything else the result depends on.
            keep_outputs: files that must exist in the folder afterwards.

        Raises:
            DiskFullError: no space left; what was finished stays.
        """
        begun = self.begin(name, inputs=inputs, params=params)
        if isinstance(begun, Stage):
            return begun
        try:
            result = work(begun.folder)
        except OSError as error:
            raise _explain(error, begun.folder) from error
        return self.finish(begun, result, keep_outputs)

    def begin(self, name: str, *, inputs: Mapping[str, Path | str], params: Mapping[str, Any]) -> Stage | Begun:
        """The finished stage, or the folder in which its work is to be done. Arguments as for `run`."""
        hashes = {key: _fingerprint(value) for key, value in sorted(inputs.items())}
        identity = json.dumps([name, hashes, params], sort_keys=True, default=str)
        key = hashlib.sha256(identity.encode()).hexdigest()
        final, partial = self.root / name, self.root / f"{name}.partial-{key[:12]}"
        if done := self._finished(final, key):
            return done
        self._set_aside(final)
        previous = self.root / ".previous" / f"{name}-{key[:12]}"
        if previous.is_dir():  # made before, then replaced: the parameters were changed back
            previous.rename(final)
            if done := self._finished(final, key):
                return done
        partial.mkdir(parents=True, exist_ok=True)
        return Begun(name, key, partial, hashes, dict(params), time.time(), time.monotonic())

    def finish(self, begun: Begun, result: dict[str, Any], keep_outputs: tuple[str, ...] = ()) -> Stage:
        """Make a stage of the work done in its folder.

        Raises:
            RunFolderError: a file of `keep_outputs` is missing.
        """
        missing = [file for file in keep_outputs if not (begun.folder / file).exists()]
        if missing:
            raise RunFolderError(f"stage {begun.name} ended without its files", got=missing)
        duration_s = time.monotonic() - begun.clock_s
        write_json(begun.folder / "stage.json", {
            "name": begun.name, "key": begun.key, "inputs": begun.inputs, "params": begun.params, "versions": tool_versions(),
            "started_unix": begun.started_unix, "duration_s": duration_s, "outcome": "done", "result": result,
        })  # fmt: skip
        final = self.root / begun.name
        begun.folder.rename(final)
        return Stage(begun.name, final, False, duration_s, result)

    def _finished(self, final: Path, key: str) -> Stage | None:
        record = final / "stage.json"
        if not record.is_file():
            return None
        data = read_json(record)
        if data.get("key") != key:
            return None
        return Stage(data["name"], final, True, data["duration_s"], data["result"])

    def _set_aside(self, final: Path) -> None:
        """Nothing measured is thrown away: a stage made with other inputs moves to `.previous/`."""
        if not final.exists():
            return
        record = final / "stage.json"
        tag = read_json(record)["key"][:12] if record.is_file() else f"broken-{time.time_ns()}"
        target = self.root / ".previous" / f"{final.name}-{tag}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target = target.with_name(f"{target.name}-{time.time_ns()}")
        final.rename(target)
