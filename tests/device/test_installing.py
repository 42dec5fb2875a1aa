"""Installing what is missing on a device: real pip, wheels made here, no network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.device.test_doctor import PROBE, page
from tests.device.test_stability import state
from tests.lab.box import Box
from tests.lab.sshd import Sshd, start_sshd
from toolchain import errors, verbs
from toolchain.agent import install as agent_install
from toolchain.device import installing, lock
from toolchain.device.ailments import Finding
from toolchain.device.clean import clean
from toolchain.device.doctor import examine
from toolchain.device.messages import check
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.device.state_messages import Probe
from toolchain.device.target import load_target

RUNTIME = "__version__ = '0.1'\ndef get_available_providers(): return ['CPUExecutionProvider']\n"


def wheel(folder: Path, name: str, code: str = "", ballast: int = 0) -> None:
    """A package of one module, for any Python."""
    info = f"{name}-0.1.dist-info"
    files = {
        f"{name}.py": code, f"{name}_ballast.bin": "\0" * ballast,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }  # fmt: skip
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-0.1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip looks; its settings are those of these tests alone."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel(folder, "edge_tiny", RUNTIME)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The agent's folder."""
    monkeypatch.setenv("EDGE_DEVICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return str(tmp_path / "bare/bin/python")


@pytest.fixture
def session(cache: Path) -> Iterator[AgentSession]:
    with connect("local") as device, device.session() as agent:
        yield agent


@pytest.fixture
def board(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """`dev`, where pip looks only into `wheels`."""
    server = start_sshd(tmp_path / "d", f"SetEnv PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels}")
    monkeypatch.setenv("EDGE_SSH_CONFIG", str(server.config))
    yield server
    server.end()


def python_of(host: str, python: str | None = None) -> str | None:
    with connect(host, python=python) as device, device.session() as agent:
        return check(Probe, agent.request("probe", timeout_s=60)).executable


def runtime_findings(found: list[Finding]) -> list[str]:
    return [one.command for one in found if one.what in ("the runtime is missing", "numpy is missing")]


def test_what_is_missing_is_installed_and_nothing_without_being_asked(wheels: Path, cache: Path, bare: str) -> None:
    wheel(wheels, "numpy", RUNTIME)  # where the Python behind `bare` has real ones, these are not needed
    wheel(wheels, "onnxruntime", RUNTIME)
    exam = examine(python=bare)
    assert runtime_findings(exam.findings) == ["toolchain doctor local --install"]
    assert not (cache / "venv").exists()

    exam = examine(python=bare, install=True)
    assert exam.installed == exam.probe.executable == str(cache / "venv/bin/python")
    assert exam.probe.numpy is not None
    assert exam.probe.runtimes["onnxruntime"] is not None
    assert runtime_findings(exam.findings) == []
    assert f"--python {exam.installed} (--python is needed)" in " ".join(page(exam).split())
    assert not (cache / "venv/tmp").exists()
    assert json.loads(json.dumps(exam.to_json()))["installed"] == exam.installed

    assert examine(python=exam.installed, install=True).installed is None  # nothing is missing any more


def test_over_ssh_it_is_used_by_itself_until_it_is_cleaned(board: Sshd, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "missing", lambda *_: ["edge_tiny"])
    half = cache / "venv/bin/python"
    half.parent.mkdir(parents=True)
    half.symlink_to(sys.executable)
    (cache / "venv/junk").write_text("of a try that was cut off")
    before = python_of("dev")
    assert before != str(half)

    exam = examine("dev", install=True)
    assert exam.installed == exam.probe.executable == str(half) == python_of("dev")
    assert not (cache / "venv/junk").exists()
    assert "used by itself" in page(exam)
    assert python_of("dev", "python3") == before
    subprocess.run([half, "-c", "import edge_tiny"], check=True)
    with connect("dev") as device, device.session():
        assert examine("local").state.agents == 1

    assert examine("dev", install=True).installed == str(half)  # made anew by the Python that is removed meanwhile
    done = clean(On("dev"))
    assert done.removed["venv"].files > 0
    assert (done.left, cache.exists()) == ([], False)
    assert python_of("dev") == before


def test_device_in_use(wheels: Path, session: AgentSession, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.hold(session, "ann@desk: toolchain bench")
    monkeypatch.setattr(lock, "OWNER", "another process")
    with pytest.raises(errors.DeviceBusyError, match="ann@desk"):
        examine(install=True)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def index(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    for name, value in {"PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple", "PIP_RETRIES": "1", "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)


def without_pip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pip", "ensurepip"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} is disabled in Debian')")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("package", "broken", "what", "got"),
    [
        ("edge_absent", lambda *_: None, "no wheel for that Python", "No matching distribution found for edge_absent"),
        ("edge_tiny", without_pip, "has no pip and cannot get one", "ensurepip is disabled in Debian"),
        ("edge_absent", lambda _, patch: index(patch, closed_port()), "reaches no package index", "127.0.0.1"),
        ("edge_bad", lambda folder, _: wheel(folder, "edge_bad", "import nowhere"), "does not run", "No module named 'nowhere'"),
    ],
)
def test_cause_is_named_and_nothing_is_left(
    package: str, broken: Callable[..., None], what: str, got: str, wheels: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(wheels, monkeypatch)
    with connect("local") as device, device.session() as agent:
        with pytest.raises(errors.RuntimeMissingError, match=what) as caught:
            installing.install(agent, [package])
        assert got in str(caught.value.got)
        assert not (cache / "venv").exists()
        assert agent.open


def test_full_disk(make_box: Callable[..., Box], wheels: Path) -> None:
    wheel(wheels, "edge_big", ballast=60 << 20)
    box = make_box(disk="40m", environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)})
    with connect("dev") as device, device.session() as agent, pytest.raises(errors.DiskFullError):
        installing.install(agent, ["edge_big"])
    assert box.run("ls -A /home/dev/.cache/edge-toolchain").stdout.split() == ["agent"]
    assert box.run("ls -A /home/dev/.cache").stdout.split() == ["edge-toolchain"]  # and not pip's


def test_host_that_goes_away_leaves_nothing(
    wheels: Path, cache: Path, session: AgentSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an index that never answers
        index(monkeypatch, silent.getsockname()[1])

        def leave(event: str, data: Any) -> None:
            if "Looking in" in str(data):
                raise KeyboardInterrupt

        with connect("local") as device:
            agent = device.session()
            with pytest.raises(KeyboardInterrupt):
                agent.request("install", timeout_s=60, on_event=leave, packages=["edge_absent"])
            assert (cache / "venv").exists()
            agent.close()
        assert not (cache / "venv").exists()


@pytest.mark.parametrize("packages", [[], ["--target=/"], ["numpy==1"], ["x; rm"], [3]])
def test_only_names_of_packages(session: AgentSession, packages: list[Any]) -> None:
    with pytest.raises(errors.ProtocolError, match="not names of packages"):
        session.request("install", timeout_s=60, packages=packages)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, []),
        ({"numpy": None}, ["numpy", "onnxruntime"]),
        ({"runtimes": {"onnxruntime": None}}, ["numpy", "onnxruntime"]),
    ],
)
def test_missing(change: dict[str, Any], names: list[str]) -> None:
    probe = check(Probe, {**PROBE, "state": state().model_dump(), **change})
    target = load_target("intel-n100")
    assert installing.missing(target, probe) == installing.missing(None, probe) == names
    other = target.model_copy(update={"default_runtime": "tensorrt"})  # pip has none that fits the board's system
    assert installing.missing(other, probe) == names


INFO = PROBE["runtimes"]["onnxruntime"]


@pytest.mark.parametrize("there", [{}, {"onnxruntime": None}, {"onnxruntime": None, "ncnn": INFO}, {"ncnn": None}])
def test_the_default_runtime_comes_beside_the_usual_one(there: dict[str, Any]) -> None:
    """Commands run ONNX Runtime where nobody says otherwise, so that one is wanted on every board."""
    runtimes = {"onnxruntime": INFO, **there}
    probe = check(Probe, {**PROBE, "state": state().model_dump(), "runtimes": runtimes})
    assert installing.missing(load_target("raspberry-pi-5"), probe) == ["numpy", "onnxruntime", "ncnn"]
    everything = check(Probe, {**PROBE, "state": state().model_dump(), "runtimes": dict.fromkeys(("onnxruntime", "ncnn"), INFO)})
    assert installing.missing(load_target("raspberry-pi-5"), everything) == []


def test_a_runtime_that_is_named() -> None:
    def probe(**runtimes: Any) -> Probe:
        return check(Probe, {**PROBE, "state": state().model_dump(), "runtimes": runtimes})

    cpu, gpu = ({"version": "1", "precisions": ["fp32"], "providers": [f"{name}ExecutionProvider"]} for name in ("CPU", "CUDA"))
    target = load_target("intel-n100")
    assert installing.missing(target, probe(onnxruntime=cpu), "openvino") == ["numpy", "onnxruntime", "openvino"]  # kept
    assert installing.missing(target, probe(onnxruntime=gpu), "openvino") == ["numpy", "openvino"]  # not covered
    assert installing.missing(target, probe(openvino=cpu), "openvino") == []
    with pytest.raises(errors.UsageError, match="tensorrt; it can: onnxruntime, openvino, ncnn"):
        installing.missing(target, probe(), "tensorrt")


def test_a_runtime_without_install_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="openvino"):
        verbs.examine(["local"], runtime="openvino")


@pytest.mark.parametrize(("version", "renewed"), [("9.0.1", True), ("20.3.4", False)])
def test_old_pip_is_renewed_first(version: str, renewed: bool) -> None:
    asked: list[str] = []

    class Noted(agent_install.Build):
        def run(self, words: list[str]) -> tuple[int, list[str]]:
            asked.append(" ".join(words[1:]))
            return 0, [f"pip {version} from /usr/lib/python3/dist-packages (python 3.6)"]

    agent_install.make(Noted(None, "/nowhere/venv"), ["edge_tiny"])
    assert any("--upgrade pip" in words for words in asked) == renewed
    assert asked[-2:] == ["-m pip install --no-cache-dir --only-binary=:all: edge_tiny", "-c import edge_tiny"]
