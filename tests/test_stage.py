"""A stage is whole or absent, is never done twice, and is done again when anything it depends on changes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolchain import stage
from toolchain.errors import DiskFullError, RunFolderError
from toolchain.stage import Stages, append_line, file_sha256, read_json, read_lines, tool_versions, write_bytes, write_json


class Work:
    """Writes one file and counts its calls."""

    def __init__(self, text: str = "done") -> None:
        self.calls, self.text = 0, text

    def __call__(self, out: Path) -> dict[str, Any]:
        self.calls += 1
        (out / "result.txt").write_text(self.text)
        return {"calls": self.calls}


def run(root: Path, work: Any, **changes: Any) -> stage.Stage:
    settings: dict[str, Any] = {"inputs": {"text": "a"}, "params": {"n": 1}, "keep_outputs": ("result.txt",), **changes}
    return Stages(root).run("prune", work, **settings)


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    work = Work()
    first, second = run(tmp_path, work), run(tmp_path, work)
    assert work.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert first.result == second.result == {"calls": 1}
    assert (first / "result.txt").read_text() == "done"
    record = read_json(first.folder / "stage.json")
    assert (record["outcome"], record["params"], record["name"]) == ("done", {"n": 1}, "prune")
    assert record["duration_s"] == second.duration_s
    assert set(record["versions"]) == set(stage.TOOLS)


@pytest.mark.parametrize("changes", [{"params": {"n": 2}}, {"inputs": {"text": "b"}}, {"inputs": {"other": "a"}}])
def test_any_change_does_it_again_and_keeps_the_old_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    old, new = Work("old"), Work("new")
    run(tmp_path, old)
    assert not run(tmp_path, new, **changes).reused
    assert (tmp_path / "prune/result.txt").read_text() == "new"
    assert [path.read_text() for path in (tmp_path / ".previous").glob("*/result.txt")] == ["old"]
    back = run(tmp_path, old)  # the parameters changed back: nothing is done a second time
    assert (back.reused, old.calls) == (True, 1)
    assert (tmp_path / "prune/result.txt").read_text() == "old"


def test_inputs_count_by_content_not_by_date(tmp_path: Path) -> None:
    file, folder, work = tmp_path / "in.txt", tmp_path / "in", Work()
    folder.mkdir()
    (folder / "a").write_text("1")
    file.write_text("1")
    inputs: dict[str, Path | str] = {"file": file, "folder": folder}
    run(tmp_path / "run", work, inputs=inputs)
    os.utime(file, (1, 1))
    os.utime(folder / "a", (1, 1))
    assert run(tmp_path / "run", work, inputs=inputs).reused
    (folder / "a").write_text("2")
    assert not run(tmp_path / "run", work, inputs=inputs).reused
    (folder / "a").rename(folder / "b")
    assert not run(tmp_path / "run", work, inputs=inputs).reused
    file.write_text("2")
    assert not run(tmp_path / "run", work, inputs=inputs).reused


def test_a_failure_leaves_no_finished_stage(tmp_path: Path) -> None:
    def fail(out: Path) -> dict[str, Any]:
        (out / "result.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(tmp_path, fail)
    assert not (tmp_path / "prune").exists()
    assert not run(tmp_path, Work()).reused


def test_work_may_resume_in_its_partial_folder(tmp_path: Path) -> None:
    def first(out: Path) -> dict[str, Any]:
        (out / "progress.txt").write_text("7")
        raise KeyboardInterrupt

    def second(out: Path) -> dict[str, Any]:
        return {"from": (out / "progress.txt").read_text()}

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first)
    assert run(tmp_path, second, keep_outputs=()).result == {"from": "7"}


def test_a_killed_process_leaves_no_finished_stage(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from toolchain.stage import Stages\n"
        "def work(out):\n"
        "    (out / 'result.txt').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Stages(Path(sys.argv[1])).run('prune', work, inputs={'text': 'a'}, params={'n': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode < 0
    assert not (tmp_path / "prune").exists()
    work = Work()
    assert not run(tmp_path, work).reused
    assert work.calls == 1


def test_missing_outputs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="without its files") as raised:
        run(tmp_path, lambda out: {}, keep_outputs=("model.pt",))
    assert "model.pt" in str(raised.value)
    assert not (tmp_path / "prune").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so(tmp_path: Path, code: int) -> None:
    def full(out: Path) -> dict[str, Any]:
        raise OSError(code, os.strerror(code))

    with pytest.raises(DiskFullError, match="no space left"):
        run(tmp_path, full)
    assert not (tmp_path / "prune").exists()


def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = run(tmp_path, Work()).folder
    (folder / "stage.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"stage\.json"):
        run(tmp_path, Work())


def test_a_folder_without_a_record_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "prune").mkdir()
    (tmp_path / "prune/notes.txt").write_text("mine")
    assert not run(tmp_path, Work()).reused
    assert [path.read_text() for path in (tmp_path / ".previous").glob("prune-broken-*/notes.txt")] == ["mine"]


# ------------------------------------------------------------------------------------------------------------------ files


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFullError), (errno.EIO, RunFolderError)])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=r"a\.json"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_json_comes_back_and_paths_become_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": tmp_path, "n": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"path": str(tmp_path), "n": [1, 2.5, None]}
    assert json.loads((tmp_path / "a.json").read_text()) == read_json(tmp_path / "a.json")


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_the_hash_is_sha256_of_the_contents(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_versions_are_found_or_none() -> None:
    versions = tool_versions()
    assert versions["numpy"]
    assert all(value is None or value[0].isdigit() for value in versions.values())


def test_a_line_torn_by_a_kill_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert list(read_lines(path)) == []
    append_line(path, {"n": 1})
    with path.open("a") as stream:
        stream.write('{"n": 2, "torn')
    append_line(path, {"n": 3})
    assert [entry["n"] for entry in read_lines(path)] == [1, 3]
    with pytest.raises(ValueError, match="JSON compliant"):
        append_line(path, {"n": float("nan")}, allow_nan=False)
    assert len(list(read_lines(path))) == 2
