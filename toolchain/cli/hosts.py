"""What stays on a device: deploy puts a bundle into service there, `host clean` takes the agent's own folder away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import AsJson, Patience, Python, Wait, app, finish

host = typer.Typer(no_args_is_help=True, help="Look after what this toolchain leaves on a device.")
app.add_typer(host, name="host")


@app.command()
def deploy(
    bundle: Annotated[Path | None, typer.Argument(help="bundle of `toolchain build` or of a run")] = None,
    hosts: Annotated[list[str] | None, typer.Argument(metavar="[HOST]...", help="one device or several")] = None,
    to: Annotated[str, typer.Option("--to", help="folder there; the model gets a folder of its own in it")] = "~/edge-toolchain",
    name: Annotated[str | None, typer.Option("--name", help="of the model there; default: the bundle folder's")] = None,
    rollback: Annotated[str | None, typer.Option("--rollback", metavar="HOST/NAME", help="back to the version before")] = None,
    listed: Annotated[str | None, typer.Option("--list", metavar="HOST", help="what is deployed there")] = None,
    wait: Wait = 0.0,
    patience: Patience = 300.0,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """A bundle into service on devices: checked, tried there, switched to in one step; --rollback goes back."""
    from toolchain import verbs
    from toolchain.device.settings import On
    from toolchain.errors import UsageError

    on = On(python=python, wait_s=wait, patience_s=patience)
    if [rollback is not None, listed is not None, bundle is not None].count(True) != 1:
        fix = "toolchain deploy BUNDLE HOST..., or --rollback HOST/NAME, or --list HOST"
        raise UsageError("deploy does one of three things", fix=fix)
    if rollback is not None:
        result = verbs.rollback(rollback, on=on, to=to)
        text = f"{result['version']} is in service again, instead of {result['before']}\n{result['folder']}/current"
        finish(result, as_json, text)
    elif listed is not None:
        models = verbs.deployed(listed, on=on, to=to)
        finish({"models": models}, as_json, "\n".join(map(verbs.describe_model, models)) or f"nothing is deployed in {to}")
    elif bundle is not None:
        outcomes, error = verbs.deploy(bundle, hosts or [], on=on, to=to, name=name)
        if as_json:
            typer.echo(json.dumps({"devices": outcomes}))
        if error is not None:
            raise error


@host.command()
def clean(
    address: Annotated[str, typer.Argument(metavar="HOST", help="local, user@addr[:port], or a Host of your ssh config")],
    wait: Wait = 0.0,
    python: Python = None,
    as_json: AsJson = False,
) -> None:
    """Remove the agent's own folder from a device; deployed models stay."""
    from toolchain.device.clean import clean as clean_host
    from toolchain.device.settings import On

    found = clean_host(On(host=address, python=python, wait_s=wait)).to_json()
    lines = [f"{kind}: {one['files']} files, {one['bytes']} bytes" for kind, one in found["removed"].items()]
    lines += [f"left, as it is not the agent's: {name}" for name in found["left"]]
    finish(found, as_json, "\n".join([f"{found['folder']}: {found['bytes']} bytes removed", *lines]))
