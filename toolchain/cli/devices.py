"""Devices: targets."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from toolchain.cli.options import AsJson, app


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="a target, or a TOML file")] = None,
    as_json: AsJson = False,
) -> None:
    """The devices known; one of them whole, every value with its source."""
    from toolchain.device.target import list_targets, load_target
    from toolchain.progress import console
    from toolchain.report.target_table import target_page, targets_table

    if name is None and as_json:
        typer.echo(json.dumps({"targets": list_targets()}))
    elif name is None:
        console.print(targets_table([load_target(known).to_json() for known in list_targets()]))
    elif as_json:
        typer.echo(json.dumps(load_target(name).to_json()))
    else:
        console.print(target_page(load_target(name).to_json()))
