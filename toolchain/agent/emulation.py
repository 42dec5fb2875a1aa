"""Whether the processor is real. What an emulated one is timed at says nothing about a board, so its results are marked."""

import os
import platform
import re

from . import sysfs

QEMU_BRIDGE = ["0x1b36", "0x0008"]
ARM = re.compile(r"aarch64|arm")


def emulated(root):
    """What shows that programs run on an emulated processor, or on a machine that only qemu makes; None when nothing does.

    A virtual machine on a processor of its own kind is not emulated.
    """
    for sign in (_program, _foreign_processor, _translated_processor, _qemu_board):
        reason = sign(root)
        if reason:
            return reason
    return None


def _program(root):
    """qemu's user mode shows a process its own program under /proc/self, and itself under this name."""
    try:
        program = os.readlink(sysfs.below(root, "/proc/thread-self/exe"))
    except OSError:
        return None
    return "programs run under %s" % os.path.basename(program) if "qemu" in os.path.basename(program) else None


def _foreign_processor(root):
    found = re.search(r"^vendor_id\s*:\s*(\S+)", _text(root, "/proc/cpuinfo"), re.M)
    if found and ARM.match(platform.machine()):
        return "%s programs on a processor of %s" % (platform.machine(), found.group(1))
    return None


def _translated_processor(root):
    found = re.search(r"^model name\s*:\s*(.*\bTCG\b.*)$", _text(root, "/proc/cpuinfo"), re.M)
    return "the processor is %s" % found.group(1) if found else None


def _qemu_board(root):
    """qemu's Arm machine is no board, whoever runs its processor; on a PC the same names are those of any virtual machine."""
    compatible = _text(root, "/sys/firmware/devicetree/base/compatible").split("\0")
    if "linux,dummy-virt" in compatible:
        return "the machine is qemu's: its device tree says linux,dummy-virt"
    if ARM.match(platform.machine()):
        for path in sysfs.paths(root, "/sys/bus/pci/devices/*"):
            if [_text(root, path + name) for name in ("/vendor", "/device")] == QEMU_BRIDGE:
                return "the machine is qemu's: it has qemu's PCI bridge"
    maker = _text(root, "/sys/devices/virtual/dmi/id/sys_vendor")
    if maker == "QEMU" and ARM.match(platform.machine()):
        return "the machine is qemu's: its maker is QEMU"
    return None


def _text(root, path):
    try:
        return sysfs.read(root, path)
    except OSError:
        return ""
