"""NVIDIA's power modes, by name: their numbers change between releases."""

import re

from . import sysfs

CONF = "/etc/nvpmodel.conf"
STATUS = "/var/lib/nvpmodel/status"


def modes(root):
    """{name: number} of the modes this board has.

    Raises:
        ValueError: no nvpmodel here.
    """
    try:
        text = sysfs.read(root, CONF)
    except OSError as error:
        raise ValueError("no nvpmodel on this device (%s)" % sysfs.reason(error)) from error
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text, re.M)
    if not found:
        raise ValueError("no power modes in %s" % CONF)
    return {name: int(number) for number, name in found}


def default(root):
    """Name of the mode of a fresh device, or None."""
    found = re.search(r"^\s*<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", sysfs.read(root, CONF), re.M)
    names = [name for name, number in modes(root).items() if found and number == int(found.group(1))]
    return names[0] if names else None


def current(root):
    """{name, id, source} of the mode the device is in: asked of nvpmodel, else read from its status file.

    Raises:
        ValueError, OSError: no nvpmodel here, or neither tells.
    """
    known = modes(root)
    why = "no nvpmodel program"
    if sysfs.program(root, "nvpmodel"):
        try:
            shown = sysfs.answer_of(root, ["nvpmodel", "-q"])
            found = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)\s*$", shown.strip(), re.M)
            if found:
                return {"name": found.group(1), "id": int(found.group(2)), "source": "nvpmodel -q"}
            why = "nvpmodel -q said %r" % shown.strip()[-200:]
        except ValueError as error:
            why = str(error)
    try:
        found = re.search(r"pmode:(\d+)", sysfs.read(root, STATUS))
    except OSError as error:
        raise ValueError("%s; %s" % (why, sysfs.reason(error))) from error
    names = [name for name, number in known.items() if found and number == int(found.group(1))]
    if not names:
        raise ValueError("%s; %s names no mode of %s" % (why, STATUS, CONF))
    return {"name": names[0], "id": known[names[0]], "source": STATUS}


def plain(name):
    """A mode's name without the prefix that some releases give it."""
    return name[len("MODE_") :] if name.upper().startswith("MODE_") else name


def find(root, wanted):
    """(name, number) of a mode given with or without MODE_, in any case; None when there is none."""
    for name, number in modes(root).items():
        if plain(name).upper() == plain(wanted).upper():
            return name, number
    return None
