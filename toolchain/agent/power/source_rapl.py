"""Energy counter of the processor package: powercap energy_uj, rails by zone name.

`core` and `uncore` are parts of `package`; `intel-rapl-mmio` counts the package a second time and is not looked at. Root only
since CVE-2020-8694. Source: Linux, Documentation/power/powercap/powercap.rst.
"""

import os

from .rail_files import RailFiles, exists, folders, number, text


class Rapl(RailFiles):
    unit, what = "J", "powercap intel-rapl"

    def __init__(self, root, source):
        RailFiles.__init__(self, root, source)
        ranges = [number(root, os.path.dirname(self._files[rail][0]) + "/max_energy_range_uj") for rail in self.rails]
        if len(set(ranges)) == 1 and ranges[0]:
            self.wrap_j = (ranges[0] + 1) / 1e6

    def find(self):
        files, seen = {}, set()
        for zone in folders(self.root, "/sys/class/powercap/intel-rapl:*"):
            name = text(self.root, zone + "/name")
            if name and exists(self.root, zone + "/energy_uj"):
                seen.add(name)
                files.setdefault(name, (zone + "/energy_uj",))
        return {rail: files[rail] for rail in self.source["rails"] if rail in files}, seen

    def value(self, files):
        micro = number(self.root, files[0])
        return None if micro is None else micro / 1e6

    def remedy(self, path):
        note = "until the next boot; any user can then read it, which is what CVE-2020-8694 is about"
        return "sudo chmod a+r %s  (%s), or measure as root" % (path, note)


def open_source(root, source):
    return Rapl(root, source)
