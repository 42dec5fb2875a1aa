"""What else runs on the device: busy processes, programs known to disturb, users of the accelerators."""

import os
import re
import time

from . import sysfs

WINDOW_S = 0.2
SHOWN = 5
LOADER = b".read(int(sys.argv[1])))"  # part of an agent's command line
PACKED = re.compile(rb"/agent/[0-9a-f]{64}\.pyz\Z")  # of one that runs in the environment that `install` made
DISTURBING = (  # names as /proc shows them
    "jtop", "tegrastats", "Xorg", "Xwayland", "gnome-shell", "gdm3", "lightdm", "labwc", "wayfire", "kwin_x11", "kwin_wayland",
    "weston", "apt", "apt-get", "dpkg",
)  # fmt: skip
ACCELERATORS = ("/dev/nvhost-", "/dev/nvmap", "/dev/nvgpu", "/dev/nvidia", "/dev/hailo", "/dev/dri/render", "/dev/rknpu")


def pids(root):
    return [int(name) for name in sysfs.children(root, "/proc") if name.isdigit()]


def stat(root, pid):
    """Name, parent and CPU ticks of a process, or None when it has gone."""
    try:
        text = sysfs.read(root, "/proc/%d/stat" % pid)
        name, rest = text.split("(", 1)[1].rsplit(")", 1)
        fields = rest.split()
        return name, int(fields[1]), int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None


def table(root):
    found = ((pid, stat(root, pid)) for pid in pids(root))
    return {pid: one for pid, one in found if one}


def ours(processes):
    """This agent, what started it and what it started."""
    mine, pid = set(), os.getpid()
    while pid in processes and pid not in mine:
        mine.add(pid)
        pid = processes[pid][1]
    below, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, one in processes.items() if one[1] in below} - below
        below, grown = below | more, bool(more)
    return mine | below


def agents(root, processes):
    """Agents of this toolchain."""
    found = set()
    for pid in processes:
        try:
            with open(sysfs.below(root, "/proc/%d/cmdline" % pid), "rb") as stream:
                words = stream.read(4096).split(b"\0")
        except OSError:
            continue
        if len(words) > 2 and ((words[1] == b"-c" and LOADER in words[2]) or PACKED.search(words[1])):
            found.add(pid)
    return found


def load(root):
    """Looks at the processes twice, `WINDOW_S` apart.

    Returns:
        busy: those that took most of the processor, 100 % is one core; agents and their parents left out.
        disturbing: names of programs known to disturb.
        agents: number of other agents of this toolchain.
    """
    before, start = table(root), time.monotonic()
    if before:
        time.sleep(WINDOW_S)
    after, seconds = table(root), time.monotonic() - start
    others = agents(root, after)
    left_out, ticks = ours(after) | others, os.sysconf("SC_CLK_TCK")
    busy = []
    for pid, (name, _, spent) in after.items():
        if pid in before and pid not in left_out and spent > before[pid][2]:
            percent = 100.0 * (spent - before[pid][2]) / ticks / seconds
            busy.append({"pid": pid, "name": name, "cpu_percent": round(percent, 1)})
    busy.sort(key=lambda one: (-one["cpu_percent"], one["pid"]))
    names = {one[0] for pid, one in after.items() if pid not in left_out}
    return {
        "busy": busy[:SHOWN],
        "disturbing": sorted(name for name in DISTURBING if name in names),
        "agents": len(others - {os.getpid()}),
    }


def accelerator_users(root):
    """Processes that hold an accelerator's device file, ours left out.

    Raises:
        ValueError: there are processes that may not be looked into, so the list would not be whole.
    """
    if not sysfs.paths(root, *[prefix + "*" for prefix in ACCELERATORS]):
        return []
    processes = table(root)
    left_out = ours(processes) | agents(root, processes)
    found, hidden = [], 0
    for pid, (name, _, _) in processes.items():
        if pid in left_out:
            continue
        try:
            held = sorted(set(devices(root, pid)))
        except OSError:
            hidden += 1
            continue
        found += [{"pid": pid, "name": name, "device": device} for device in held[:1]]
    if hidden and not found:
        raise ValueError("%d processes of other users cannot be looked into (needs root)" % hidden)
    return found


def devices(root, pid):
    folder = sysfs.below(root, "/proc/%d/fd" % pid)
    for name in os.listdir(folder):
        try:
            path = os.readlink(os.path.join(folder, name))
        except OSError:
            continue
        if path.startswith(ACCELERATORS):
            yield path
