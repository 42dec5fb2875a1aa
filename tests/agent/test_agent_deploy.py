"""Whatever the moment of death, what is in service on the device is whole and was tried."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import tinynet
from toolchain.agent import clean, deploy, files, shelf, smoke
from toolchain.agent.wire import AgentError
from toolchain.device import bundle
from toolchain.device.settings import On

fork = multiprocessing.get_context("fork")
CALLS = ("mkdir", "rename", "symlink", "fsync", "remove", "rmdir", "unlink", "replace")  # of os, between which a kill may fall


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles."""
    folder = tmp_path_factory.mktemp("bundles")
    about: dict[str, Any] = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}
    for seed in range(3):
        bundle.build(tinynet.save_detector(folder / "x.onnx", seed=seed), folder / str(seed), On(threads=1), **about)
    return [folder / str(seed) for seed in range(3)]


class Job:
    """A request without a wire."""

    def __init__(self, **request: Any) -> None:
        self.request, self.cache, self.memory, self.events = request, str(request.get("cache")), {}, []
        self.root = "/"

    def need(self, name: str, kind: type) -> Any:
        value = self.request[name]
        assert isinstance(value, kind)
        return value

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))


def job(to: Path, made: Path | None = None, **changes: Any) -> Job:
    fields: dict[str, Any] = {"to": str(to), "name": "det", "who": "me", "wait_s": 0.0, "limit_s": 60.0}
    if made is not None:
        names = [path.name for path in made.iterdir()]
        fields["files"] = {name: {"path": str(made / name), "sha256": files.sha256(made / name)} for name in names}
        fields["version"] = fields["files"]["manifest.json"]["sha256"][:16]
    return Job(**{**fields, **changes})


def version(made: Path) -> str:
    return str(files.sha256(made / "manifest.json"))[:16]


def in_service(to: Path) -> str | None:
    """The version `current` leads to, which must be whole."""
    place = shelf.Shelf(str(to), "det")
    now = place.current()
    assert now is None or shelf.damage(place.link, now) is None
    return now


def test_deploy_roll_back_and_forward(bundles: list[Path], tmp_path: Path) -> None:
    a, b, c = (version(made) for made in bundles)
    first = deploy.deploy(job(tmp_path, bundles[0]))
    assert (first["before"], first["version"], first["switched"]) == (None, a, True)
    assert first["tried"]["detections"] > 0
    with pytest.raises(AgentError, match="no version before"):
        deploy.rollback(job(tmp_path))
    deploy.deploy(job(tmp_path, bundles[1]))
    third = job(tmp_path, bundles[2])
    deploy.deploy(third)
    assert [fields["step"] for _, fields in third.events] == ["install", "try", "switch"]
    assert deploy.deployed(job(tmp_path))["models"][0]["history"] == [a, b, c]
    again = deploy.deploy(job(tmp_path, bundles[2]))
    assert (again["before"], again["switched"]) == (c, False)
    assert deploy.rollback(job(tmp_path))["version"] == b
    assert deploy.rollback(job(tmp_path))["version"] == in_service(tmp_path) == a
    assert deploy.deploy(job(tmp_path, bundles[2]))["before"] == a
    assert deploy.deployed(job(tmp_path))["models"][0]["history"] == [a, c]
    assert sorted(os.listdir(tmp_path / "det" / "versions")) == sorted([a, c]), "what was never in service again is gone"


def test_a_kill_at_any_point_leaves_a_whole_tried_version(bundles: list[Path], tmp_path: Path) -> None:
    """Killed before the first change to the disk, the second, the third ... until it gets through; then done again."""
    a, b = (version(made) for made in bundles[:2])
    base, tried = tmp_path / "base", []
    deploy.deploy(job(base, bundles[0]))

    def dying(to: Path, at: int) -> None:
        count = [0]

        def count_down(original: Any) -> Any:
            def call(*words: Any, **more: Any) -> Any:
                if count[0] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count[0] += 1
                return original(*words, **more)

            return call

        for name in CALLS:
            setattr(os, name, count_down(getattr(os, name)))
        smoke.check = lambda folder, limit_s: {"detections": 1, "times": {}}  # tested elsewhere, and slow
        deploy.deploy(job(to, bundles[1]))

    seen = set()
    for at in range(200):
        to = tmp_path / str(at)
        shutil.copytree(base, to, symlinks=True)
        process = fork.Process(target=dying, args=(to, at))
        process.start()
        process.join()
        now = in_service(to)
        seen.add(now)
        assert now in (a, b)
        history = deploy.deployed(job(to))["models"][0]["history"]
        assert history == ([a] if now == a else [a, b])
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        tried.append(at)
        if at % 4 == 0:  # trying takes a second
            assert deploy.deploy(job(to, bundles[1]))["version"] == in_service(to)
            assert in_service(to)[:16] == b  # type: ignore[index]
            assert not [name for name in os.listdir(to / "det") if name not in {"versions", "current", "history.json", ".lock"}]
            assert deploy.rollback(job(to))["version"] == a
        shutil.rmtree(to)
    assert len(tried) > 15
    assert seen == {a, b}


def test_a_version_that_fails_its_trial_is_kept_out_with_the_reason(bundles: list[Path], tmp_path: Path) -> None:
    deploy.deploy(job(tmp_path / "to", bundles[0]))
    for name, change, text in (
        ("infer.py", b"import sys; sys.exit('it broke')", "it broke"),
        ("infer.py", b"import no_such_runtime", "no_such_runtime"),
        ("infer.py", b"print('hello')", "something else"),
        ("infer.py", b"import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("expected.json", None, "gives other detections here: a 0"),
    ):
        bad = tampered(bundles[1], tmp_path / "bad", name, change)
        with pytest.raises(AgentError, match=text) as caught:
            deploy.deploy(job(tmp_path / "to", bad))
        assert "stays in service" in str(caught.value)
        assert in_service(tmp_path / "to") == version(bundles[0])
        (model,) = deploy.deployed(job(tmp_path / "to"))["models"]
        assert version(bad) in [one["version"] for one in model["failures"] if text in one["text"]]
        assert os.listdir(tmp_path / "to" / "det" / "versions") == [version(bundles[0])]


def tampered(made: Path, to: Path, name: str, data: bytes | None) -> Path:
    """A bundle that is whole but does something else; without `data`, one that expects other scores."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(made, to)
    if data is None:
        expected = json.loads((to / name).read_text())
        expected["detections"][0]["score"] -= 0.07
        data = json.dumps(expected).encode()
    (to / name).write_bytes(data)
    manifest = json.loads((to / "manifest.json").read_text())
    manifest["files"][name]["sha256"] = files.sha256(to / name)
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def test_a_trial_that_never_ends(bundles: list[Path], tmp_path: Path) -> None:
    slow = tampered(bundles[0], tmp_path / "slow", "infer.py", b"import time; time.sleep(60)")
    with pytest.raises(AgentError, match=r"did not end within 0.5 s"):
        deploy.deploy(job(tmp_path / "to", slow, limit_s=0.5))
    assert in_service(tmp_path / "to") is None


def test_the_failed_version_in_service_stays(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploying what is in service again, where the runtime has changed meanwhile: said, and nothing taken away."""
    deploy.deploy(job(tmp_path, bundles[0]))

    def fail(folder: str, limit_s: float) -> None:
        raise AgentError("smoke", "other detections")

    monkeypatch.setattr(smoke, "check", fail)
    with pytest.raises(AgentError, match="other detections"):
        deploy.deploy(job(tmp_path, bundles[0]))
    assert in_service(tmp_path) == version(bundles[0])


def test_a_file_that_arrives_changed(bundles: list[Path], tmp_path: Path) -> None:
    asked = job(tmp_path, bundles[0])
    asked.request["files"]["labels.txt"]["path"] = str(bundles[1] / "sample.ppm")
    with pytest.raises(AgentError, match=r"labels\.txt: sha256") as caught:
        deploy.deploy(asked)
    assert caught.value.kind == "upload"
    assert os.listdir(tmp_path / "det" / "versions") == []


def test_no_space_left_while_copying(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy.deploy(job(tmp_path, bundles[0]))

    def full(source: str, target: str, want: str) -> None:
        Path(target).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deploy, "_copy", full)
    with pytest.raises(AgentError) as caught:
        deploy.deploy(job(tmp_path, bundles[1]))
    assert caught.value.kind == "disk_full"
    assert sorted(os.listdir(tmp_path / "det")) == [".lock", "current", "history.json", "versions"]
    assert in_service(tmp_path) == version(bundles[0])


def test_a_folder_that_may_not_be_written(bundles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="Not a directory") as caught:
        deploy.deploy(job(tmp_path / "file", bundles[0]))
    assert caught.value.kind == "deploy"


def test_a_version_that_rotted_on_the_card_is_installed_anew(bundles: list[Path], tmp_path: Path) -> None:
    a = version(bundles[0])
    deploy.deploy(job(tmp_path, bundles[0]))
    (tmp_path / "det" / "current" / "engine.onnx").write_bytes(b"rotten")
    assert deploy.deploy(job(tmp_path, bundles[0]))["version"] == in_service(tmp_path) == f"{a}-2"
    with pytest.raises(AgentError, match="cannot be gone back to"):
        deploy.rollback(job(tmp_path))
    assert in_service(tmp_path) == f"{a}-2"


def test_files_of_older_versions_need_not_be_sent(bundles: list[Path], tmp_path: Path) -> None:
    deploy.deploy(job(tmp_path, bundles[0]))
    asked = [files.sha256(bundles[1] / name) for name in ("labels.txt", "infer.py", "engine.onnx")]
    there = deploy.have(job(tmp_path, sha256=asked))["have"]
    assert set(there) == set(asked[:2])


def test_one_at_a_time(bundles: list[Path], tmp_path: Path) -> None:
    deploy.deploy(job(tmp_path, bundles[0]))
    with shelf.Shelf(str(tmp_path), "det").held("ann@laptop", 0.0):
        with pytest.raises(AgentError, match="ann@laptop") as caught:
            deploy.deploy(job(tmp_path, bundles[1], wait_s=0.3))
        assert caught.value.kind == "busy"
    deploy.deploy(job(tmp_path, bundles[1]))


@pytest.mark.parametrize(
    "change",
    [{"name": "../up"}, {"name": ""}, {"to": "relative"}, {"version": "x"}, {"files": {"../manifest.json": {}}}, {"files": {}}],
)
def test_nothing_outside_its_folder(bundles: list[Path], tmp_path: Path, change: dict[str, Any]) -> None:
    asked = job(tmp_path, bundles[0])
    asked.request.update(change)
    with pytest.raises(AgentError) as caught:
        deploy.deploy(asked)
    assert caught.value.kind == "bad_request"
    assert not any(tmp_path.iterdir())


def test_current_that_is_not_ours(bundles: list[Path], tmp_path: Path) -> None:
    (tmp_path / "det" / "current").mkdir(parents=True)
    with pytest.raises(AgentError, match="move it away"):
        deploy.deploy(job(tmp_path, bundles[0]))
    assert (tmp_path / "det" / "current").is_dir()


def test_old_versions_go(bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "check", lambda folder, limit_s: {"detections": 1, "times": {}})
    monkeypatch.setattr(shelf, "KEEP", 2)
    for made in bundles:
        deploy.deploy(job(tmp_path, made))
    assert sorted(os.listdir(tmp_path / "det" / "versions")) == sorted(map(version, bundles[1:]))
    assert deploy.rollback(job(tmp_path))["version"] == version(bundles[1])


def expected(*detections: dict[str, Any]) -> dict[str, Any]:
    return {"min_score": 0.25, "score_tolerance": 0.05, "least_iou": 0.7, "detections": list(detections)}


def one(score: float = 0.9, left: float = 0.0, kind: int = 0) -> dict[str, Any]:
    return {"class": kind, "label": "abc"[kind], "score": score, "box": [left, 0.0, left + 10, 10.0]}


@pytest.mark.parametrize(
    ("was", "found", "text"),
    [
        ([one()], [one(0.87, 1.0)], None),
        ([one(0.28)], [], None),
        ([], [one(0.28)], None),
        ([one(), one(0.8, 3.0)], [one(0.8, 3.0), one()], None),
        ([one()], [], "not found: a 0.90"),
        ([one()], [one(0.8)], "was 0.90"),
        ([one()], [one(left=4.0)], "not found"),
        ([one()], [one(kind=1)], "not found"),
        ([one()], [one(), one(0.5, 40.0)], "found: a 0.50 at (40, 0, 50, 10)"),
        ([one()], [one(float("nan"))], "nan"),
    ],
)
def test_what_counts_as_the_same_detections(was: list[Any], found: list[Any], text: str | None) -> None:
    said = smoke.differences(expected(*was), found)
    assert (said == []) if text is None else text in "; ".join(said)


def test_clean_takes_its_own_folder_and_nothing_else(tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    for folder in (cache / "files", cache / "agent", cache / "out" / "deep", other):
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(b"12345")
    (cache / "files" / "link").symlink_to(other)
    (cache / "trial").symlink_to(other)
    (cache / "diary.txt").touch()
    found = clean.clean(Job(cache=str(cache)))
    assert found["removed"]["agent"] == {"files": 1, "bytes": 5}
    assert found["removed"]["out"] == {"files": 1, "bytes": 5}
    assert found["left"] == ["diary.txt"]
    assert (other / "data").read_bytes() == b"12345"
    assert sorted(path.name for path in cache.iterdir()) == ["diary.txt"]
    (cache / "diary.txt").unlink()
    assert clean.clean(Job(cache=str(cache)))["removed"] == {}
    assert not cache.exists()
    assert clean.clean(Job(cache=str(cache)))["left"] == []
