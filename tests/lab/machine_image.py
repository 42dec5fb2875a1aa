"""Kernel, first programs and disk of the emulated machine, from Debian's packages."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

from tests.lab import arm_tree
from tests.lab.cache import cached, step
from tests.lab.require import needs_programs

GUEST = Path(__file__).with_name("guest")
DISK_SIZE = "1G"  # sparse
MODULES = (  # in the order in which they need each other; what is built into the kernel is not found, nor needed
    *("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_mmio", "virtio_blk"),
    *("failover", "net_failover", "virtio_net", "overlay"),
)
Files = dict[str, tuple[int, bytes]]  # path -> mode and content; of a link: LINK and where it points
LINK = 0o120777


def machine_image() -> Path:
    """Folder with `vmlinuz`, `initrd` (to which keys must be added) and `disk`; built where it does not exist."""
    needs_programs("D", mmdebstrap="mmdebstrap", mke2fs="e2fsprogs")
    tree = arm_tree.arm_tree("D")
    parts = [Path(__file__), Path(arm_tree.__file__), GUEST / "first.sh"]

    def build(folder: Path) -> None:
        kernel = folder / "kernel"
        arm_tree.unpack_debian(kernel, ("linux-image-cloud-arm64", "busybox-static"))
        (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
        shutil.copy(vmlinuz, folder / "vmlinuz")
        (folder / "initrd").write_bytes(archive(_first_files(kernel)))
        shutil.rmtree(kernel)
        step("mke2fs", "-q", "-t", "ext4", "-d", tree, "-m", "0", folder / "disk", DISK_SIZE)

    return cached("arm-machine", *parts, arm_tree.MIRROR, build=build)


def _first_files(kernel: Path) -> Files:
    busybox, modules = kernel / "bin/busybox", list((kernel / "lib/modules").resolve().rglob("*.ko*"))
    files: Files = {"init": (0o755, (GUEST / "first.sh").read_bytes()), "bin/busybox": (0o755, busybox.read_bytes())}
    order = []
    for module in MODULES:
        found = next((path for path in modules if path.name.split(".")[0] == module), None)
        if found is not None:
            content = found.read_bytes()
            files[f"modules/{module}.ko"] = (0o644, lzma.decompress(content) if found.suffix == ".xz" else content)
            order.append(module)
    files["modules/order"] = (0o644, "".join(f"{module}\n" for module in order).encode())
    return files | {f"{name}/": (0o755, b"") for name in ("proc", "sys", "dev", "disk")}


def archive(files: Files) -> bytes:
    """A compressed cpio archive as the kernel unpacks it; several may follow each other. A path that ends with / is a folder."""
    entries: Files = {}
    for path, entry in files.items():
        for parent in reversed(Path(path).parents[:-1]):
            entries.setdefault(f"{parent}/", (0o755, b""))
        entries[path] = entry
    blocks = [_entry(number, path, *entry) for number, (path, entry) in enumerate(entries.items(), 1)]
    return gzip.compress(b"".join([*blocks, _entry(0, "TRAILER!!!", 0, b"")]), 1)


def _entry(number: int, path: str, mode: int, content: bytes) -> bytes:
    """One file in the format newc: 13 numbers, the name and the content, both filled up to a multiple of four."""
    kind = 0 if mode == LINK else 0o040000 if path.endswith("/") else 0o100000
    name = path.rstrip("/").encode() + b"\0"
    numbers = (number, mode | kind, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in numbers) + name
    return _filled(head) + _filled(content)


def _filled(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
