"""Pack the agent into one zip file: the same sources always give the same bytes, so its hash names it."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PACKAGE = "edge_agent"  # its name on the device
SHIPPED = "bundle_files/infer.py"  # what a bundle runs by itself is what end-to-end timing times
MAIN = f"from {PACKAGE}.main import main\n\nraise SystemExit(main())\n"


@dataclass(frozen=True)
class AgentPackage:
    """The zip, its hash, and the loader program that fetches and starts it on a device.

    Attributes:
        packed: the zip as it travels, compressed as a whole: half of what its files take one by one.
    """

    data: bytes
    sha256: str
    loader: bytes
    packed: bytes


def sources_of(folder: Traversable, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found.update(sources_of(entry, f"{prefix}{entry.name}/"))
        elif entry.name.endswith(".py"):
            found[prefix + entry.name] = entry.read_bytes()
    return found


def pack(sources: dict[str, bytes]) -> bytes:
    """Zip of name -> contents, sorted, stored, without clock or permissions of this machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, sources[name])
    return buffer.getvalue()


@cache
def agent_package() -> AgentPackage:
    """The agent of this installation."""
    sources = sources_of(resources.files("toolchain.agent"), f"{PACKAGE}/")
    sources[f"{PACKAGE}/shipped.py"] = (resources.files("toolchain.device") / SHIPPED).read_bytes()
    data = pack({**sources, "__main__.py": MAIN.encode()})
    return AgentPackage(data, hashlib.sha256(data).hexdigest(), sources[f"{PACKAGE}/loader.py"], zlib.compress(data, 9))
