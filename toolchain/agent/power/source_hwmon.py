"""INA3221 by its hwmon driver: mV x mA of each rail, rails by label.

The driver has no power file. in7 is the sum of the shunts and in4..6 are shunt voltages: they have no curr beside them.
Source: Linux, Documentation/hwmon/ina3221.rst.
"""

import os

from .. import sysfs
from .rail_files import RailFiles, chips, exists, number, text

SHUNT_STEP_UV = 40.0


def channel(path):
    return os.path.basename(path)[2:].split("_")[0]


class Hwmon(RailFiles):
    averages = True

    def __init__(self, root, source):
        self.what = "hwmon chip %s" % " or ".join(source.get("chips") or ["?"])
        RailFiles.__init__(self, root, source)
        self.update_ms = self.settings()["update_interval"]
        for rail in self.rails:
            volt = self._files[rail][0]
            shunt_uohm = number(root, "%s/shunt%s_resistor" % (os.path.dirname(volt), channel(volt)))
            millivolt = number(root, volt)
            if shunt_uohm and shunt_uohm > 0 and millivolt:
                self.quantum[rail] = SHUNT_STEP_UV / shunt_uohm * abs(millivolt) / 1000.0

    def find(self):
        files, seen = {}, set()
        for chip in chips(self.root, self.source.get("chips") or []):
            for label_path in sysfs.paths(self.root, chip + "/in[0-9]*_label"):
                volt = label_path[: -len("label")] + "input"
                ampere = "%s/curr%s_input" % (chip, channel(volt))
                label = text(self.root, label_path)
                if label and label != "NC" and exists(self.root, ampere):
                    seen.add(label)
                    files.setdefault(label, (volt, ampere))
        return {rail: files[rail] for rail in self.source["rails"] if rail in files}, seen

    def settings(self):
        chip = os.path.dirname(self._files[self.rails[0]][0])
        return {name: number(self.root, chip + "/" + name) for name in ("samples", "update_interval")}

    def value(self, files):
        millivolt, milliampere = number(self.root, files[0]), number(self.root, files[1])
        return None if millivolt is None or milliampere is None else millivolt * milliampere / 1e6


def open_source(root, source):
    return Hwmon(root, source)
