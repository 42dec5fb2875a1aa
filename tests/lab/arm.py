"""Tier C: a box with an aarch64 Debian, its programs run by qemu's user mode emulation. Its timings are no device's."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from tests.lab.arm_tree import arm_tree
from tests.lab.box import Making, can_make_boxes
from tests.lab.require import cannot, needs_programs

# What a core tells of itself: CPU part, variant, revision, features. It must be true of the emulated core: ONNX Runtime believes
# the part number, and over a core without dot products the file of one with them ends in an illegal instruction.
V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
V82 = f"{V8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CORES = {
    "cortex-a53": ("0xd03", "0x0", 4, "fp asimd evtstrm crc32 cpuid"),  # Raspberry Pi 3: no cryptography
    "cortex-a57": ("0xd07", "0x1", 1, V8),  # Jetson Nano
    "cortex-a72": ("0xd08", "0x0", 3, "fp asimd evtstrm crc32 cpuid"),  # Raspberry Pi 4
    "cortex-a76": ("0xd0b", "0x4", 1, V82),  # Raspberry Pi 5
    "cortex-a78ae": ("0xd42", "0x0", 1, V82),  # Jetson Orin
}
EMULATED_AS = {"cortex-a78ae": "cortex-a76"}  # qemu 7.2 has no A78AE; the features are the same
MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"


def cpuinfo(core: str, count: int = 4) -> str:
    """/proc/cpuinfo of a board with such cores."""
    part, variant, revision, features = CORES[core]
    return "".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: {revision}\n\n"
        for number in range(count)
    )


def arm_making(folder: Path, core: str = "cortex-a76", *, fake: Path | None = None, disk: str = "256m") -> Making:
    """How to make such a box; `folder` keeps its cpuinfo. Skips the test, or fails it, where that is impossible."""
    can_make_arm()
    (folder / "cpuinfo").write_text(cpuinfo(core))
    cpu = EMULATED_AS.get(core, core)
    more = {"BINFMT": f":edge-aarch64:M::{MAGIC}:{MASK}:{emulator()}:OPF", "CPUINFO": str(folder / "cpuinfo"), "QEMU_CPU": cpu}
    # sshd drops the variable for its sessions; without it they would silently run on a core that no board has
    environment = {"QEMU_CPU": cpu, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return Making(disk=disk, fake=fake, name="edge-arm64", lower=arm_tree("C"), more=more, environment=environment)


def emulator() -> Path:
    """Debian's name for the emulator when it is called by the kernel with the program's own first word (flag P)."""
    return Path("/usr/libexec/qemu-binfmt/aarch64-binfmt-P")


def can_make_arm() -> None:
    """Skip, or fail, where that is impossible."""
    can_make_boxes("C")
    needs_programs("C", qemu_aarch64_static="qemu-user-static", mmdebstrap="mmdebstrap")
    if not emulator().exists():
        cannot("C", f"{emulator()} is missing (apt-get install qemu-user-static)")
    version = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    if version < (6, 7):
        cannot("C", f"Linux {platform.release()} lets no namespace have an emulator of its own: 6.7 is needed")
