"""INA3221 by the iio driver of JetPack 4: mW of each rail, rails by rail_name_N."""

import os

from .. import sysfs
from .rail_files import RailFiles, exists, folders, number, text


class Iio(RailFiles):
    averages = True

    def __init__(self, root, source):
        self.what = "iio folder %s" % " ".join(source.get("paths") or ["?"])
        RailFiles.__init__(self, root, source)

    def find(self):
        files, seen = {}, set()
        for folder in folders(self.root, *self.source.get("paths", [])):
            for name_path in sysfs.paths(self.root, folder + "/rail_name_[0-9]*"):
                power = "%s/in_power%s_input" % (folder, os.path.basename(name_path).rsplit("_", 1)[1])
                name = text(self.root, name_path)
                if name and exists(self.root, power):
                    seen.add(name)
                    files.setdefault(name, (power,))
        return {rail: files[rail] for rail in self.source["rails"] if rail in files}, seen

    def value(self, files):
        milliwatt = number(self.root, files[0])
        return None if milliwatt is None else milliwatt / 1000.0


def open_source(root, source):
    return Iio(root, source)
