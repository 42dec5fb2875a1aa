"""Put a bundle into service on a device: verified, installed beside the version before, tried there, switched in one step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from toolchain import progress
from toolchain.device.conversion import how_far
from toolchain.device.engine_messages import Building
from toolchain.device.fit import refuse_unfit
from toolchain.device.infer import PROBE_S
from toolchain.device.lock import hold, whoami
from toolchain.device.manifest import MANIFEST, verify
from toolchain.device.messages import Count, Message, Path_, Sha256, Text, check
from toolchain.device.recover import recover
from toolchain.device.remote import connect
from toolchain.device.session import AgentSession
from toolchain.device.settings import HERE, On
from toolchain.device.state_messages import Probe
from toolchain.errors import UsageError
from toolchain.stage import file_sha256

FOLDER = "~/edge-toolchain"  # what is deployed is meant to stay, so not in the agent's cache
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PLACE = re.compile(r"(~/|/)[^\x00-\x1f]*")
INSTALL_S, TRIAL_S = 600.0, 300.0
Version = Annotated[str, Field(pattern=r"^[0-9a-f]{16}(-[0-9]{1,4})?$")]


class Tried(Message):
    """What the trial on the device found: detections that agree with those of the build, and times of infer.py's parts."""

    detections: Count
    times: dict[Text, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class OwnEngine(Message):
    """The engine of a bundle whose runtime builds one for each machine.

    Attributes:
        built: it was built of the bundle's graph there; else the bundle's own fits that machine in everything.
        reused: it had been built there before.
        why: what is another there than where the bundle's own was built.
    """

    built: bool
    reused: bool
    why: Annotated[list[Text], Field(max_length=100)]


class Deployed(Message):
    """What is in service now.

    Attributes:
        engine: None where the bundle's engine is loaded as it is.
        before: the version in service until now.
        switched: False where this very version was in service already.
    """

    folder: Path_
    version: Version
    before: Version | None
    switched: bool
    engine: OwnEngine | None = None
    tried: Tried


class Refused(Message):
    """A version that did not get into service."""

    version: Version
    time_unix: Annotated[float, Field(allow_inf_nan=False)]
    kind: Text
    text: Text


class Model(Message):
    """A deployed model: versions in the order they came into service, the one in service last."""

    name: Text
    folder: Path_
    history: list[Version]
    failures: list[Refused]


class Models(Message):
    models: Annotated[list[Model], Field(max_length=1000)]


class Step(Message):
    step: Text


class Have(Message):
    have: dict[Sha256, Path_]


def deploy(bundle: Path, on: On = HERE, *, to: str = FOLDER, name: str | None = None) -> Deployed:
    """Install the bundle on a device and put it into service, if it proves itself there; else what was there stays.

    A second call goes on where the first stopped: files that arrived are not sent again.

    Args:
        on: host, Python there, patience, and how long to wait while someone else has the device.
        to: folder there in which the model's own folder is made.
        name: of the model there; default: the bundle folder's.

    Raises:
        RunFolderError: the bundle is damaged.
        DeployError: it is not for this device, or fails its trial; with what differs.
        DeviceBusyError: someone else has the device.
        RuntimeMissingError, ProviderError, DiskFullError and the other kinds of DeviceError.
    """
    manifest = verify(bundle)
    name = _name(bundle.resolve().name if name is None else name)
    hashes = {MANIFEST: file_sha256(bundle / MANIFEST), **{file: entry.sha256 for file, entry in manifest.files.items()}}
    where: dict[str, Any] = {"to": _place(to), "name": name}

    def work() -> Deployed:
        with connect(on.host, python=on.python) as device, device.session() as session:
            refuse_unfit(manifest, check(Probe, session.request("probe", timeout_s=PROBE_S)), on.host)
            hold(session, wait_s=on.wait_s)
            answer = session.request("have", timeout_s=INSTALL_S, sha256=sorted(hashes.values()), **where)
            there = check(Have, answer).have
            files = {
                file: {"path": there.get(digest) or session.put(bundle / file), "sha256": digest}
                for file, digest in hashes.items()
            }
            fields = {**where, "version": hashes[MANIFEST][:16], "files": files}
            return _in_steps(session, "deploy", f"Deploying {name} to {device.name}", on, fields)

    return recover(work, on)


def rollback(name: str, on: On = HERE, *, to: str = FOLDER) -> Deployed:
    """Put the version that was in service before back into service, after it was checked and tried again.

    Raises:
        DeployError: nothing is deployed under that name, there is no version before, or it no longer works there.
        DeviceError and its kinds.
    """
    where = {"to": _place(to), "name": _name(name)}
    with connect(on.host, python=on.python) as device, device.session() as session:
        hold(session, wait_s=on.wait_s)
        return _in_steps(session, "rollback", f"Rolling back {name} on {device.name}", on, where)


def deployed(on: On = HERE, *, to: str = FOLDER) -> list[Model]:
    """The models in that folder, with their versions and why others were refused."""
    with connect(on.host, python=on.python) as device, device.session() as session:
        return check(Models, session.request("deployed", timeout_s=PROBE_S, to=_place(to))).models


def _in_steps(session: AgentSession, op: str, title: str, on: On, fields: dict[str, Any]) -> Deployed:
    with progress.task(title, total=3, unit="steps") as task:

        def show(event: str, data: Any) -> None:
            if event == "step":
                task.advance(int(task.done < task.total), note=check(Step, data).step)
            elif event == "building":
                task.advance(0, note=how_far(check(Building, data)))

        fields = {**fields, "who": whoami(), "wait_s": on.wait_s, "limit_s": TRIAL_S}
        return check(Deployed, session.request(op, timeout_s=INSTALL_S + on.wait_s, on_event=show, **fields))


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError("not a name for a model on a device", got=repr(name), fix="letters, digits, . - _ (--name)")
    return name


def _place(to: str) -> str:
    if not PLACE.fullmatch(to):
        raise UsageError("not a folder on a device", got=repr(to), fix="an absolute path, or one from ~/")
    return to
