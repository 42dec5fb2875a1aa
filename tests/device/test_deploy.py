"""Bundles into service on real devices of the lab: over ssh, on a small disk, with the link cut and the agent killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import tinynet
from tests.lab.box import Box
from tests.lab.network import NetDevice
from tests.lab.sshd import Sshd
from toolchain import errors, verbs
from toolchain.cli import app
from toolchain.device import bundle
from toolchain.device.clean import clean
from toolchain.device.deploy import deploy, deployed, rollback
from toolchain.device.fit import refuse_unfit
from toolchain.device.lock import hold
from toolchain.device.manifest import verify
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import On
from toolchain.device.state_messages import Probe

DEV = On("dev", threads=1, python=sys.executable, patience_s=0.0)
ABOUT: dict[str, Any] = {"labels": ["a", "b", "c"], "imgsz": 32, "precision": "fp32"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two bundles, built on this machine, of which every device of the lab is a copy."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed in range(2):
        bundle.build(tinynet.save_detector(folder / "x.onnx", seed=seed), folder / str(seed), On(threads=1), **ABOUT)
    return [folder / str(seed) for seed in range(2)]


def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that travel from now on."""
    names: list[str] = []
    original = AgentSession.put

    def put(self: AgentSession, path: Path, **more: Any) -> str:
        names.append(path.name)
        return original(self, path, **more)

    monkeypatch.setattr(AgentSession, "put", put)
    return names


def test_the_way_of_a_model(dev: Sshd, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = str(tmp_path / "there")
    names = sent(monkeypatch)
    first = deploy(bundles[0], DEV, to=to, name="det")
    assert set(names) == {path.name for path in bundles[0].iterdir()}
    names.clear()
    second = deploy(bundles[1], DEV, to=to, name="det")
    assert second.before == first.version
    assert set(names) == {"engine.onnx", "expected.json", "manifest.json"}, "what is there already does not travel"
    assert [model.history for model in deployed(DEV, to=to)] == [[first.version, second.version]]
    current = tmp_path / "there" / "det" / "current"
    verify(current)
    said = subprocess.run([sys.executable, current / "infer.py", current / "sample.ppm"], capture_output=True, check=True).stdout
    assert json.loads(said)["detections"]
    assert rollback("det", DEV, to=to).version == first.version
    assert (current / "engine.onnx").read_bytes() == (bundles[0] / "engine.onnx").read_bytes()
    with pytest.raises(errors.DeployError, match="no version before"):
        rollback("det", DEV, to=to)
    with pytest.raises(errors.DeployError, match="nothing is deployed"):
        rollback("other", DEV, to=to)
    assert len(deployed(DEV, to=to)) == 1


@pytest.mark.parametrize("words", [{"name": "../x"}, {"name": ""}, {"to": "there"}, {"to": "~user"}])
def test_bad_places(bundles: list[Path], words: dict[str, str]) -> None:
    with pytest.raises(errors.UsageError):
        deploy(bundles[0], DEV, **words)


def test_a_damaged_bundle_goes_nowhere(bundles: list[Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundles[0], tmp_path / "bad")
    (tmp_path / "bad" / "labels.txt").write_text("other\n")
    with pytest.raises(errors.RunFolderError, match="changed"):
        deploy(tmp_path / "bad", On("nobody.invalid"))


@pytest.mark.parametrize(
    ("device", "kind", "text"),
    [
        ({"arch": "aarch64"}, errors.DeployError, "built for x86_64, dev is aarch64"),
        ({"numpy": None}, errors.RuntimeMissingError, "numpy is not installed"),
        ({"runtimes": {"onnxruntime": None}}, errors.RuntimeMissingError, "pip install onnxruntime"),
        ({"runtimes": {"onnxruntime": {"version": "1.2.3"}}}, errors.RuntimeMissingError, "dev has 1.2.3"),
        ({"runtimes": {"onnxruntime": {"providers": ["CUDA"]}}}, errors.ProviderError, "there are CUDA"),
        ({"compatible": ["nvidia,p3767"]}, None, ""),
    ],
)
def test_what_a_bundle_was_not_built_for(bundles: list[Path], device: dict[str, Any], kind: Any, text: str) -> None:
    """The reason and the way out; never another version instead."""
    manifest = verify(bundles[0])
    now = {**manifest.device, **device}
    if isinstance(device.get("runtimes"), dict) and device["runtimes"]["onnxruntime"]:
        now["runtimes"] = {"onnxruntime": {**manifest.device["runtimes"]["onnxruntime"], **device["runtimes"]["onnxruntime"]}}
    probe = Probe.model_validate(now)
    if kind is None:
        refuse_unfit(manifest, probe, "dev")
        kind, text = errors.DeployError, "compiled for another device"
        manifest = manifest.model_copy(update={"engine": "engine.plan"})
    with pytest.raises(kind, match=text) as caught:
        refuse_unfit(manifest, probe, "dev")
    assert "try: " in str(caught.value)


def test_it_is_refused_before_anything_is_sent(
    dev: Sshd, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sent(monkeypatch)
    monkeypatch.setattr("toolchain.device.fit.BOUND_TO", ("hostname",))
    manifest = verify(bundles[0]).model_copy(update={"engine": "engine.plan", "device": {"arch": os.uname().machine}})
    monkeypatch.setattr("toolchain.device.deploy.verify", lambda path: manifest)
    with pytest.raises(errors.DeployError, match="compiled for another device"):
        deploy(bundles[0], DEV, to=str(tmp_path))
    assert names == []


def test_two_users(dev: Sshd, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told who the first is, or waits."""
    with connect("dev", python=sys.executable) as device, device.session() as session:
        hold(session, who="ann@desk: toolchain bench")
        monkeypatch.setattr("toolchain.device.lock.OWNER", "somebody else")
        with pytest.raises(errors.DeviceBusyError, match="ann@desk"):
            deploy(bundles[0], DEV, to=str(tmp_path))
        with pytest.raises(errors.DeviceBusyError, match="ann@desk"):
            clean(DEV)
        threading.Timer(1.0, session.kill).start()
        assert deploy(bundles[0], replace(DEV, wait_s=60.0), to=str(tmp_path)).switched


@pytest.mark.parametrize("left", [0, 300_000], ids=["upload", "install"])
def test_a_small_disk(make_box: Callable[..., Box], bundles: list[Path], left: int) -> None:
    """The version before stays in service; with space, it goes on."""
    box = make_box(disk="8m")
    first = deploy(bundles[0], DEV, name="det")
    ssh(box, f"cat /dev/zero > /home/dev/full; truncate -s -{left} /home/dev/full")
    with pytest.raises(errors.DiskFullError):
        deploy(bundles[1], DEV, name="det")
    ssh(box, "rm /home/dev/full")
    assert deployed(DEV)[0].history == [first.version]
    assert deploy(bundles[1], DEV, name="det").before == first.version
    assert sorted(ssh(box, "ls -A /home/dev/edge-toolchain/det").split()) == [".lock", "current", "history.json", "versions"]


def ssh(box: Box, command: str) -> str:
    """By the plain client: what a user would see there."""
    done = subprocess.run(["ssh", "-F", str(box.config), "dev", command], capture_output=True, text=True, check=True)
    return done.stdout


def test_clean_leaves_what_is_deployed(lab_box: Box, bundles: list[Path]) -> None:
    deploy(bundles[0], DEV, name="det")
    before = ssh(lab_box, "find /home/dev/.cache -type f | wc -l")
    found = clean(DEV).to_json()
    assert int(before) >= sum(one["files"] for one in found["removed"].values()) > 5
    assert found["bytes"] > 10000
    assert found["left"] == []
    assert ssh(lab_box, "ls -A /home/dev /home/dev/.cache").split() == [
        "/home/dev:",
        ".cache",
        "edge-toolchain",
        "/home/dev/.cache:",
    ]
    assert deployed(DEV)[0].history


@pytest.mark.parametrize("step", ["install", "try", "switch"])
def test_the_agent_dies_at_each_step(
    dev: Sshd, bundles: list[Path], tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = str(tmp_path)
    first = deploy(bundles[0], DEV, to=to, name="det")
    original = AgentSession.request

    def request(self: AgentSession, op: str, **fields: Any) -> dict[str, Any]:
        def kill(name: str, data: Any) -> None:
            assert self.hello is not None
            if data == {"step": step}:
                os.kill(self.hello.pid, signal.SIGKILL)

        return original(self, op, **{**fields, "on_event": kill} if op == "deploy" else fields)

    with monkeypatch.context() as patch:
        patch.setattr(AgentSession, "request", request)
        with pytest.raises(errors.DeviceError):
            deploy(bundles[1], DEV, to=to, name="det")
    verify(tmp_path / "det" / "current")
    assert deployed(DEV, to=to)[0].history[0] == first.version
    again = deploy(bundles[1], DEV, to=to, name="det")
    assert deployed(DEV, to=to)[0].history == [first.version, again.version]


def test_the_host_dies(lab_box: Box, bundles: list[Path]) -> None:
    """kill -9 of the command itself, at moments spread over its run."""
    deploy(bundles[0], DEV, name="det")
    words = [sys.executable, "-m", "toolchain", "deploy", str(bundles[1]), "dev", "--name", "det", "--python", sys.executable]
    for delay_s in (1.0, 1.6, 2.2):
        command = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        command.kill()
        command.wait()
        (model,) = deployed(DEV)
        now = ssh(lab_box, f"cat {model.folder}/current/manifest.json")
        assert now in [(made / "manifest.json").read_text() for made in bundles]
    assert deploy(bundles[1], replace(DEV, wait_s=30.0), name="det").version == deployed(DEV)[0].history[-1]


def test_the_link_is_cut_and_comes_back(lab_net: NetDevice, bundles: list[Path]) -> None:
    lab_net.rate_kbit(256)
    cutter = threading.Timer(2.0, lab_net.cut)
    healer = threading.Timer(6.0, lab_net.heal)
    cutter.start()
    healer.start()
    assert deploy(bundles[0], replace(DEV, patience_s=60.0, wait_s=60.0), name="det").switched


def test_the_command(dev: Sshd, bundles: list[Path], tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--to", str(tmp_path), "--python", sys.executable], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done

    (entry,) = json.loads(run("deploy", str(bundles[0]), "dev", "--name", "det", "--json").stdout)["devices"]
    assert entry["error"] is None
    assert entry["result"]["switched"]
    run("deploy", str(bundles[1]), "dev", "--name", "det")
    (model,) = json.loads(run("deploy", "--list", "dev", "--json").stdout)["models"]
    assert len(model["history"]) == 2
    assert json.loads(run("deploy", "--rollback", "dev/det", "--json").stdout)["version"] == model["history"][0]
    assert "in service" in verbs.describe_model(model)


@pytest.mark.parametrize("words", [[], ["x"], ["x", "dev", "--list", "dev"], ["--rollback", "det"], ["--rollback", "a/b/"]])
def test_the_command_asked_for_nonsense(words: list[str]) -> None:
    with pytest.raises(errors.UsageError):
        CliRunner().invoke(app, ["deploy", *words], catch_exceptions=False)
