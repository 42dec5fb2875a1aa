"""Rails that are files of the kernel, found by name and label; looked for again when one vanishes."""

import errno
import os
import time

from .. import sysfs
from . import UnreadableError, needed

LOOK_AGAIN_S = 0.5


def number(root, path):
    """The integer in a file; None where it cannot be read just now (gone, EAGAIN, no number)."""
    try:
        return sysfs.number(root, path)
    except (OSError, ValueError):
        return None


def text(root, path):
    """The text in a file; None where there is none."""
    try:
        return sysfs.read(root, path)
    except OSError:
        return None


def exists(root, path):
    return os.path.exists(sysfs.below(root, path))


def folders(root, *patterns):
    """Folders that match, each once however many links lead to it."""
    found = {}
    for path in sysfs.paths(root, *patterns):
        found.setdefault(os.path.realpath(sysfs.below(root, path)), path)
    return list(found.values())


def chips(root, names):
    """hwmon folders whose `name` is one of `names`: the numbers of hwmonN change from boot to boot."""
    places = ("/sys/class/hwmon", "/sys/bus/i2c/devices/*/hwmon", "/sys/bus/i2c/drivers/*/*/hwmon")
    found = folders(root, *(place + "/hwmon*" for place in places))
    return [path for path in found if text(root, path + "/name") in names]


class RailFiles:
    """Reader of a source whose rails are files.

    A subclass gives `what`, its name for people; `find()` -> {rail: its files}, and the labels that are there; and
    `value(files)` -> W or J, or None.
    """

    unit, update_ms, wrap_j, averages = "W", None, None, False

    def __init__(self, root, source):
        self.root, self.source = root, source
        self.quantum, self._looked = {}, time.monotonic()
        self._files, seen = self.find()
        if not seen:
            raise UnreadableError("no_sensor", "%s: none found" % self.what)
        missing = [rail for rail in needed(source) if rail not in self._files] or ([] if self._files else list(source["rails"]))
        if missing:
            detail = "%s: no rail %s; there are %s" % (self.what, ", ".join(missing), ", ".join(sorted(seen)))
            raise UnreadableError("unknown_rail_map", detail, "name the rails of this board in a target file of your own")
        self.rails = [rail for rail in source["rails"] if rail in self._files]
        for rail in self.rails:
            for path in self._files[rail]:
                self._check(path)

    @property
    def paths(self):
        return {rail: " x ".join(self._files[rail]) for rail in self.rails}

    def settings(self):
        return {}

    def read(self):
        values = [self.value(self._files[rail]) for rail in self.rails]
        if None in values and time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._looked = time.monotonic()
            found = self.find()[0]  # a driver that was bound anew comes back under another number
            if all(rail in found for rail in needed(self.source)):
                self._files.update(found)
        return values

    def remedy(self, path):
        """What makes a file readable."""
        return "sudo chmod a+r %s  (until the next boot), or measure as root" % path

    def _check(self, path):
        try:
            sysfs.read(self.root, path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                need = " (needs %s)" % self.source["requires"] if self.source.get("requires") else ""
                raise UnreadableError("permission", "%s may not be read%s" % (path, need), self.remedy(path)) from error
