"""Devices: targets."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from toolchain.cli.options import AsJson, app, finish


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="a target, or a TOML file")] = None,
    as_json: AsJson = False,
) -> None:
    """The devices known; one of them whole."""
    from toolchain.device.target import list_targets, load_target

    if name is None:
        known = list_targets()
        finish({"targets": known}, as_json, "\n".join(f"{n:<20} {load_target(n).title}" for n in known))
    else:
        found = load_target(name).to_json()
        finish(found, as_json, json.dumps(found, indent=1))
