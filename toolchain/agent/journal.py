"""What was changed on the device and how to put it back, on disk before each change: no end of a process loses it.

A journal is a list of steps; putting back takes them from the last to the first. Each step is one of
  {"do": "write", "path", "value"}       a file of /sys gets its old value
  {"do": "nvpmodel", "name"}             the old power mode
  {"do": "run", "words"}                 a program that undoes, such as jetson_clocks --restore FILE
Whoever holds the lock beside it may change the journal: the agent that set the mode, else whoever puts things back.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import time

from . import nvpmodel, sysfs

FOLDER = "modes"
SLOW_S = 60.0  # nvpmodel takes its time


class NotPermittedError(ValueError):
    """Root's rights are needed and sudo asks for a password; `command` is what a person can run."""

    def __init__(self, command, shown):
        ValueError.__init__(self, "not permitted: %s" % shown)
        self.command = command


def place(root, cache):
    """The journal's path: one for each machine, as a home folder may be shared by many."""
    key = "%s %s" % (platform.node(), os.path.realpath(root))
    return os.path.join(cache, FOLDER, hashlib.sha256(key.encode("utf-8")).hexdigest()[:16] + ".json")


def lock(path, wait_s):
    """The open lock file, held until it is closed; None while another process has it."""
    until = time.monotonic() + wait_s
    while True:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path + ".lock") and os.path.samestat(os.fstat(descriptor), os.stat(path + ".lock")):
                return descriptor  # else the holder before us took the file away
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                os.close(descriptor)
                raise
        os.close(descriptor)
        if time.monotonic() >= until:
            return None
        time.sleep(0.05)


def load(path):
    """The journal, or None where there is none.

    Raises:
        ValueError: it is damaged, which a crash alone cannot do: it is replaced as a whole.
    """
    try:
        with open(path) as stream:
            return json.load(stream)
    except IOError:
        return None
    except ValueError as error:
        raise ValueError("%s is damaged (%s): look at the power mode, then remove the file" % (path, error)) from error


def save(path, journal):
    partial = "%s.%d" % (path, os.getpid())
    with open(partial, "w") as stream:
        json.dump(journal, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(partial, path)


def forget(path):
    for name in (path, path + ".clocks"):
        try:
            os.remove(name)
        except OSError:
            pass


def tidy(path):
    """Leave nothing in the cache; only for the holder of the lock."""
    try:
        os.remove(path + ".lock")
        os.rmdir(os.path.dirname(path))
    except OSError:  # the folder holds what belongs to another machine
        pass


def as_root(root, words, text=None):
    """Run a program with root's rights, by sudo -n where this user is not root.

    Returns:
        what it printed.

    Raises:
        NotPermittedError: with the command for a person.
        ValueError: it failed.
    """
    full = list(words) if os.geteuid() == 0 else ["sudo", "-n", *words]
    command = "sudo " + " ".join(words) if text is None else "echo %s | sudo %s" % (text, " ".join(words))
    if full[0] == "sudo" and sysfs.program(root, "sudo") is None:
        raise NotPermittedError(command, "this user is not root and there is no sudo")
    status, shown = sysfs.run(root, full, SLOW_S, text)
    if status and full[0] == "sudo" and "sudo:" in shown:
        raise NotPermittedError(command, shown.strip()[-200:])
    if status:
        raise ValueError("%s ended with %d: %s" % (" ".join(words), status, shown.strip()[-300:]))
    return shown


def write(root, path, value):
    """Set a file of /sys.

    Raises:
        NotPermittedError: with the command for a person.
        ValueError, OSError: it did not take the value.
    """
    try:
        with open(sysfs.below(root, path), "w") as stream:
            stream.write(value)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        as_root(root, ["tee", sysfs.below(root, path)], value)
    if sysfs.read(root, path) != value:
        raise ValueError("%s is %r, not %r" % (path, sysfs.read(root, path), value))


def set_nvpmodel(root, name):
    """Set a power mode and look whether it took. A question about a reboot is never answered.

    Raises:
        NotPermittedError: with the command for a person.
        ValueError: it did not take, with the reason.
    """
    found = nvpmodel.find(root, name)
    if found is None:
        raise ValueError("this device has no power mode %s" % name)
    name, number = found
    shown = as_root(root, ["nvpmodel", "-m", str(number)])
    now = nvpmodel.current(root)["name"]
    if now != name:
        why = "it asks for a reboot" if "reboot" in shown.lower() else "nvpmodel said nothing about it; some modes need a reboot"
        raise ValueError("the power mode is still %s after %s was set: %s" % (now, name, why))


def undo(root, step):
    if step["do"] == "write":
        write(root, step["path"], step["value"])
    elif step["do"] == "nvpmodel":
        if nvpmodel.current(root)["name"] != step["name"]:
            set_nvpmodel(root, step["name"])
    else:
        as_root(root, step["words"])


def command_of(root, step):
    """How a person puts one step back."""
    if step["do"] == "write":
        return "echo %s | sudo tee %s" % (step["value"], step["path"])
    if step["do"] == "nvpmodel":
        found = nvpmodel.find(root, step["name"])
        return "sudo nvpmodel -m %s" % (found[1] if found else step["name"])
    return "sudo " + " ".join(step["words"])


def put_back(root, path, journal):
    """Undo every step, the last first. What cannot be undone stays in the journal.

    A restart of the device has undone all but the power mode by itself.

    Returns:
        problems in plain words, and commands for a person.
    """
    restarted = journal["boot_id"] != sysfs.boot_id(root)
    steps = [step for step in journal["steps"] if step["do"] == "nvpmodel" or not restarted]
    problems, commands, left = [], [], []
    for step in reversed(steps):
        try:
            undo(root, step)
        except Exception as error:  # noqa: BLE001 - the other steps must be undone as well
            problems.append(sysfs.reason(error))
            commands.append(command_of(root, step))
            left.insert(0, step)
    if left:
        save(path, dict(journal, steps=left, problems=problems))
    else:
        forget(path)
    return problems, commands


def heal(root, path):
    """Put back what an unclean end left; only for the holder of the lock.

    Returns:
        None where there was nothing to do, else {"asked", "who", "since_unix", "problems", "commands"}.
    """
    left = load(path)
    if left is None:
        return None
    problems, commands = put_back(root, path, left)
    about = {name: left[name] for name in ("asked", "who", "since_unix")}
    return dict(about, problems=problems, commands=commands)


def heal_unless_held(root, cache):
    """The same, unless a living process has the lock: it puts back by itself."""
    path = place(root, cache)
    held = lock(path, 0.0) if os.path.exists(path) else None
    if held is None:
        return None
    try:
        healed = heal(root, path)
        if healed is None or not healed["problems"]:
            tidy(path)
        return healed
    finally:
        os.close(held)
