"""INA219/226/238 and relatives, one channel a chip: power1_input in uW, or the counter energy1_input in uJ where it has one.

Source: Linux, Documentation/hwmon/ina2xx.rst and ina238.rst.
"""

import os

from .rail_files import RailFiles, chips, exists, number, text


class Ina(RailFiles):
    averages = True

    def __init__(self, root, source):
        self.what, self.file = "hwmon chip %s" % " or ".join(source.get("chips") or ["?"]), "power1_input"
        RailFiles.__init__(self, root, source)
        if all(exists(root, os.path.dirname(files[0]) + "/energy1_input") for files in self._files.values()):
            self.file, self.unit = "energy1_input", "J"
            self._files = self.find()[0]
        self.update_ms = self.settings()["update_interval"]

    def find(self):
        files, seen, wanted = {}, set(), list(self.source["rails"])
        present = [chip for chip in chips(self.root, self.source.get("chips") or []) if exists(self.root, chip + "/" + self.file)]
        for chip in present:
            label = text(self.root, chip + "/in1_label") or text(self.root, chip + "/label")
            if label is None and len(present) == len(wanted) == 1:
                label = wanted[0]  # one chip, without a label: there is no choice
            seen.add(label or "(no label)")
            files.setdefault(label, (chip + "/" + self.file,))
        return {rail: files[rail] for rail in wanted if rail in files}, seen

    def settings(self):
        chip = os.path.dirname(self._files[self.rails[0]][0])
        return {name: number(self.root, chip + "/" + name) for name in ("samples", "update_interval", "shunt_resistor")}

    def value(self, files):
        micro = number(self.root, files[0])
        return None if micro is None else micro / 1e6


def open_source(root, source):
    return Ina(root, source)
