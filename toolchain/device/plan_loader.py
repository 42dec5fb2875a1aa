"""The code that loads a plan where there is no agent, for bundles: those of the agent's files that it takes, in one zip.

Python imports from the zip; nothing is unpacked. The package in it is named by its contents, so that programs with bundles of two
versions of this toolchain get each its own.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from toolchain.device.agent_package import pack, sources_of

LOADER = "plan_loader.zip"  # its name in a bundle
START = "trt/standalone.py"


@cache
def plan_loader() -> bytes:
    """The zip of this installation."""
    sources = sources_of(resources.files("toolchain.agent"), "")
    needed = {name: sources[name] for name in sorted(closure(sources, START))}
    package = "edge_plan_" + hashlib.sha256(pack(needed)).hexdigest()[:8]
    return pack({f"{package}/{name}": data for name, data in needed.items()})


def closure(sources: Mapping[str, bytes], start: str) -> set[str]:
    """Names of the files that one file imports, relative imports of those in turn, and the packages they lie in."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        folders = name.split("/")[:-1]
        waiting += ["/".join([*folders[:depth], "__init__.py"]) for depth in range(len(folders) + 1)]
        waiting += [one for one in _imported(sources[name], folders) if one in sources]
    return found


def _imported(source: bytes, folders: list[str]) -> Iterator[str]:
    """Files that the relative imports of a source may mean."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folders[: len(folders) - node.level + 1] + (node.module.split(".") if node.module else [])
            for path in (base, *([*base, alias.name] for alias in node.names)):
                yield "/".join(path) + ".py"
                yield "/".join([*path, "__init__.py"])
