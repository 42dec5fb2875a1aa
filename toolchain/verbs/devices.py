"""Verbs that change what is in service on devices: deploy, rollback; and what is deployed there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device import deploy as deploying
from toolchain.device import doctor, fleet
from toolchain.device.selftest import SelfTest
from toolchain.device.selftest import selftest as try_device
from toolchain.device.settings import HERE, On
from toolchain.errors import UsageError


def deploy(
    bundle: Path, hosts: Sequence[str], *, on: On = HERE, to: str = deploying.FOLDER, name: str | None = None
) -> tuple[list[dict[str, Any]], Exception | None]:
    """The bundle into service on every host at once; one that fails keeps what it had.

    Returns:
        one entry a host: its result or its error, in JSON types; and one error for all that failed.
    """

    def say(outcome: fleet.Outcome[deploying.Deployed]) -> None:
        if outcome.value is not None:
            done = "in service" if outcome.value.switched else "was in service already"
            agree = f"{outcome.value.tried.detections} detections as at the build"
            progress.note(f"{outcome.host}: {outcome.value.version} {done}, {agree}\n  {outcome.value.folder}/current")
            if (own := outcome.value.engine) is not None:
                why = "; ".join(own.why)
                progress.note(f"  its engine: {f'built there: {why}' if own.built else 'the one of the bundle'}")

    outcomes = fleet.run_on(hosts, lambda host: deploying.deploy(bundle, replace(on, host=host), to=to, name=name), done=say)
    results = [one.to_json(one.value.model_dump() if one.value else None) for one in outcomes]
    return results, fleet.failed(outcomes)


def examine(
    hosts: Sequence[str], *, target: str | None = None, python: str | None = None, install: bool = False,
    runtime: str | None = None, found: Callable[[dict[str, Any]], None] = lambda exam: None,
) -> tuple[list[dict[str, Any]], Exception | None]:  # fmt: skip
    """What every host is and whether a measurement there can be trusted; entries and error as of `deploy`.

    Args:
        install: what is missing, before.
        runtime: which one to install; None: the usual one and the target's.
        found: called with each examination, in JSON types, as they come: a dead host keeps nobody waiting.
    """
    if runtime is not None and not install:
        raise UsageError("a runtime is named to be installed", got=runtime, fix=f"--install --runtime {runtime}")

    def done(outcome: fleet.Outcome[doctor.Examination]) -> None:
        if outcome.value is not None:
            found(outcome.value.to_json())

    asked: dict[str, Any] = {"python": python, "install": install, "runtime": runtime}
    outcomes = fleet.run_on(hosts, lambda host: doctor.examine(host, target, **asked), done=done)
    return [one.to_json(one.value.to_json() if one.value else None) for one in outcomes], fleet.failed(outcomes)


def selftest(out: Path, *, on: On = HERE) -> SelfTest:
    """Try on a device what only a real board can show, TensorRT above all; writes `selftest.zip` into `out`."""
    return try_device(out, on)


def rollback(place: str, *, on: On = HERE, to: str = deploying.FOLDER) -> dict[str, Any]:
    """HOST/NAME: the version before back into service."""
    host, slash, name = place.rpartition("/")
    if not slash or not host:
        raise UsageError("say which model on which device", got=repr(place), fix="HOST/NAME; toolchain deploy --list HOST")
    return deploying.rollback(name, replace(on, host=host), to=to).model_dump()


def deployed(host: str, *, on: On = HERE, to: str = deploying.FOLDER) -> list[dict[str, Any]]:
    """The models deployed on a device, in JSON types."""
    return [model.model_dump() for model in deploying.deployed(replace(on, host=host), to=to)]


def describe_model(model: Mapping[str, Any]) -> str:
    """For people: what is in service, what was, what was refused and why."""
    *before, now = model["history"] or ["nothing"]
    lines = [f"{model['name']}: {now} in service, {model['folder']}/current"]
    lines += [f"  before: {', '.join(reversed(before))}"] if before else []
    for one in model["failures"]:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(one["time_unix"]))
        lines.append(f"  refused {one['version']} ({day}): {one['text']}")
    return "\n".join(lines)
