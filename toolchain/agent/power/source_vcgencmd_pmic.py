"""Rails of the Raspberry Pi 5's power chip: `vcgencmd pmic_read_adc`, amperes times volts of each.

One process a reading: the host keeps this slow. EXT5V and BATT have a voltage only and give no power; what hangs on the 5 V side
(USB, HATs, NVMe) is not seen.
"""

import re

from .. import sysfs
from . import UnreadableError, needed

LINE = re.compile(r"^\s*(\w+)_(A|V) (?:current|volt)\(\d+\)=(-?[0-9.]+)[AV]\s*$", re.M)
TIMEOUT_S = 2.0


def rails_of(text):
    """Answer of pmic_read_adc -> {rail: W}, of the rails that have both."""
    found = {"A": {}, "V": {}}
    for name, kind, value in LINE.findall(text):
        found[kind][name] = float(value)
    return {name: ampere * found["V"][name] for name, ampere in found["A"].items() if name in found["V"]}


class Pmic:
    unit, update_ms, wrap_j, averages = "W", None, None, False

    def __init__(self, root, source):
        self.root, self.quantum = root, {}
        if sysfs.program(root, "vcgencmd") is None:
            raise UnreadableError("no_sensor", "vcgencmd is not there", "it comes with Raspberry Pi OS")
        answer = self.ask()
        found = rails_of(answer)
        if not found:
            if "vcio" in answer or "permission" in answer.lower():
                fix = "sudo usermod -aG video $USER, then log in again"
                raise UnreadableError("permission", "vcgencmd: %s" % answer.strip()[:200], fix)
            raise UnreadableError("no_sensor", "vcgencmd pmic_read_adc: %s" % (answer.strip()[:200] or "no answer"))
        missing = [rail for rail in needed(source) or source["rails"] if rail not in found]
        if missing:
            detail = "pmic_read_adc: no rail %s; there are %s" % (", ".join(missing), ", ".join(sorted(found)))
            raise UnreadableError("unknown_rail_map", detail, "name the rails of this board in a target file of your own")
        self.rails = [rail for rail in source["rails"] if rail in found]
        self.paths = {rail: "vcgencmd pmic_read_adc: %s_A x %s_V" % (rail, rail) for rail in self.rails}

    def ask(self):
        """Everything it printed, or why it printed nothing."""
        try:
            return sysfs.run(self.root, ["vcgencmd", "pmic_read_adc"], TIMEOUT_S)[1]
        except (OSError, ValueError) as error:
            return str(error)

    def settings(self):
        return {}

    def read(self):
        found = rails_of(self.ask())
        return [found.get(rail) for rail in self.rails]


def open_source(root, source):
    return Pmic(root, source)
