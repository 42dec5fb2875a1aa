"""Set the power mode and hold the clocks, on request only; look whether it took; put it back."""

import os
import time
import uuid

from . import frequencies, journal, keeper, nvpmodel, sysfs

GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy[0-9]*/scaling_governor"
GOVERNORS_OLD = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
FASTEST = "performance"


class RefusedError(ValueError):
    """What was asked is not so; `command` is what a person can do about it."""

    def __init__(self, why, command=None):
        ValueError.__init__(self, why)
        self.command = command


def governor_files(root):
    return sysfs.paths(root, GOVERNORS) or sysfs.paths(root, GOVERNORS_OLD)


def tool_of(root, asked):
    """nvpmodel where the board has it, else the kernel's governor."""
    if asked == "nvpmodel" or (asked is None and sysfs.paths(root, nvpmodel.CONF)):
        return "nvpmodel"
    return "governor"


def known(root, tool):
    """Names of the modes, and the one the device is in."""
    if tool == "nvpmodel":
        return sorted(nvpmodel.modes(root)), nvpmodel.current(root)["name"]
    files = governor_files(root)
    if not files:
        raise RefusedError("this machine has no power modes: neither nvpmodel nor a governor")
    names = set(sysfs.read(root, files[0].replace("scaling_governor", "scaling_available_governors")).split())
    return sorted(names), "+".join(sorted({sysfs.read(root, path) for path in files}))


def names(job):
    """The power modes of this device."""
    tool = tool_of(job.root, job.request.get("tool"))
    try:
        found, current = known(job.root, tool)
    except (ValueError, OSError) as error:
        return {"tool": tool, "names": [], "current": None, "reason": sysfs.reason(error)}
    return {"tool": tool, "names": found, "current": current, "reason": None}


class Change:
    """One set of changes: every step is in the journal before it is done."""

    def __init__(self, root, path, about):
        self.root, self.path, self.journal = root, path, about
        journal.save(path, about)

    def step(self, **step):
        self.journal["steps"].append(step)
        journal.save(self.path, self.journal)

    def write(self, path, value):
        old = sysfs.read(self.root, path)
        if old != value:
            self.step(do="write", path=path, value=old)
            journal.write(self.root, path, value)

    def governor(self, name):
        for path in governor_files(self.root):
            self.write(path, name)

    def nvpmodel(self, name):
        old = nvpmodel.current(self.root)["name"]
        if old != nvpmodel.find(self.root, name)[0]:
            self.step(do="nvpmodel", name=old)
            journal.set_nvpmodel(self.root, name)

    def store_clocks(self):
        """Before a new mode, so that the clocks of the old one are there to go back to."""
        file = self.path + ".clocks"
        journal.as_root(self.root, ["jetson_clocks", "--store", file])
        self.step(do="run", words=["jetson_clocks", "--restore", file])

    def devfreq(self):
        """GPU, NPU and memory at their highest clock."""
        for folder in sysfs.paths(self.root, "/sys/class/devfreq/*"):
            if frequencies.unit_of(self.root, folder, {}) == "other":
                continue
            able = (frequencies.text(self.root, folder + "/available_governors") or "").split()
            if FASTEST in able:
                self.write(folder + "/governor", FASTEST)
            elif "userspace" in able:
                self.write(folder + "/governor", "userspace")
                fastest = max(sysfs.read(self.root, folder + "/available_frequencies").split(), key=int)
                journal.write(self.root, folder + "/userspace/set_freq", fastest)

    def nvidia(self):
        """A discrete GPU's clock at its highest."""
        words = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
        fastest = sysfs.answer_of(self.root, words, 30.0).split()[0]
        self.step(do="run", words=["nvidia-smi", "-rgc"])
        journal.as_root(self.root, ["nvidia-smi", "-lgc", "%s,%s" % (fastest, fastest)])


def loose_clocks(root):
    """Clocks of the processor and the GPU that are not held at one frequency, in plain words."""
    found = frequencies.clocks(root, {}, None)[0]
    loose = []
    for name, clock in sorted(found.items()):
        if name.split()[0] in ("cpu", "gpu") and clock["min_mhz"] != clock["max_mhz"]:
            loose.append("%s %s to %s MHz" % (name, clock["min_mhz"], clock["max_mhz"]))
    return loose


def held_already(root):
    """Whether somebody pinned the clocks before us; a new mode releases them."""
    try:
        return not loose_clocks(root)
    except ValueError:
        return False


def apply(change, tool, name, pin):
    """Mode, then pin, as a new mode releases the clocks. Each is looked at afterwards.

    Args:
        pin: "jetson_clocks", "governor", "nvidia-smi", or None for none.
    """
    root = change.root
    if tool == "governor":
        if name or pin:
            change.governor(name or FASTEST)
        if pin == "nvidia-smi":
            change.nvidia()
        elif pin:
            change.devfreq()
        return
    if pin or held_already(root):
        change.store_clocks()
    if name:
        change.nvpmodel(name)
    if pin:
        journal.as_root(root, ["jetson_clocks"])
        loose = loose_clocks(root)
        if loose:
            raise RefusedError("the clocks are not held after jetson_clocks: " + ", ".join(loose), "sudo jetson_clocks --show")


def set_mode(job):
    """Set what was asked and keep it until `restore_mode`, or until this agent ends in any way.

    Returns:
        {"before", "now", "refused", "command", "healed"}; with a reason in `refused` nothing is changed.
    """
    root, name, pin = job.root, job.request.get("name"), job.request.get("pin")
    tool = tool_of(root, job.request.get("tool"))
    answer = {"before": None, "now": None, "refused": None, "command": None, "healed": None}
    if "mode" in job.memory:
        return dict(answer, refused="this session keeps a power mode already")
    path = journal.place(root, job.cache)
    held = journal.lock(path, 20.0)
    if held is None:
        return dict(answer, refused="another session keeps the power mode of this device")
    healed = answer["healed"] = journal.heal(root, path)
    if healed is not None and healed["problems"]:  # a new journal would lose the old one's way back
        os.close(held)
        why = "what %s left cannot be put back: %s" % (healed["who"], "; ".join(healed["problems"]))
        return dict(answer, refused=why, command="; ".join(healed["commands"]))
    about = {
        "token": uuid.uuid4().hex, "boot_id": sysfs.boot_id(root), "since_unix": time.time(), "steps": [],
        "asked": name or "clocks held", "who": str(job.request.get("who"))[:500],
    }  # fmt: skip
    try:
        modes, answer["before"] = known(root, tool)
        if name and name not in modes:
            raise RefusedError("no mode %s; there are %s" % (name, ", ".join(modes)))
        job.memory["mode"] = held, keeper.start(root, job.cache, about["token"]), path
        apply(Change(root, path, about), tool, name, pin)
        answer["now"] = known(root, tool)[1]
        if job.guard is not None and job.request.get("lease_s"):
            job.guard.lease(job.request["lease_s"])
    except Exception as error:  # noqa: BLE001 - whatever it was, what was changed so far is put back
        answer["command"] = getattr(error, "command", None)
        answer["refused"] = "; ".join([sysfs.reason(error)] + give_back(job, held, path)["problems"])
    return answer


def give_back(job, held, path):
    """Undo what was done so far, and hold the mode no longer."""
    left = journal.load(path)
    problems, commands = journal.put_back(job.root, path, left) if left else ([], [])
    if "mode" in job.memory:
        keeper.dismiss(job.memory.pop("mode")[1])
    if not problems:
        journal.tidy(path)
    os.close(held)
    return {"problems": problems, "commands": commands}


def restore_mode(job):
    """Put back what this agent changed.

    Returns:
        {"problems", "commands"}: what could not be put back, and what a person can run instead.
    """
    if "mode" not in job.memory:
        return {"problems": ["no power mode is held by this session"], "commands": []}
    held, _, path = job.memory["mode"]
    return give_back(job, held, path)


def heal(job):
    """Put back what an agent left that ended uncleanly; nothing while a living one holds it."""
    return {"healed": journal.heal_unless_held(job.root, job.cache)}
