"""Read small files below the device's root, and run its programs; `root` is "/" but in tests."""

import glob
import os
import shutil
import subprocess

LIMIT = 16 << 20
FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin")


def below(root, path):
    return os.path.join(root, path.lstrip("/"))


def read(root, path):
    """Text of a file without the zeros and blanks around it.

    Raises:
        OSError: it cannot be read; some sensors answer EAGAIN, which is "unreadable now" and never 0.
    """
    # opened by hand: Python's own files turn EAGAIN into an unrelated TypeError, and a pipe must not hold us up
    descriptor = os.open(below(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) < LIMIT:
            block = os.read(descriptor, 1 << 16)
            if not block:
                break
            data += block
    finally:
        os.close(descriptor)
    return data.decode("utf-8", "replace").strip("\0\n ")


def number(root, path):
    return int(read(root, path))


def boot_id(root):
    return read(root, "/proc/sys/kernel/random/boot_id")


def paths(root, *patterns):
    """Files that exist for these patterns, as the device names them, sorted."""
    found = set()
    for pattern in patterns:
        found.update(glob.glob(below(root, pattern)))
    return ["/" + os.path.relpath(path, root) for path in sorted(found)]


def children(root, folder):
    """Names in a folder; none where it is not there."""
    try:
        return sorted(os.listdir(below(root, folder)))
    except OSError:
        return []


def first(root, folder, *names):
    """Value of the first of these files of numbers that can be read, with its path, or (None, None)."""
    for name in names:
        try:
            return number(root, folder + "/" + name), folder + "/" + name
        except (OSError, ValueError):
            continue
    return None, None


def reason(error):
    """Why something could not be read, short."""
    if isinstance(error, OSError) and error.strerror:
        return "%s: %s" % (error.strerror, error.filename) if error.filename else error.strerror
    return str(error) if isinstance(error, ValueError) else "%s: %s" % (type(error).__name__, error)


def collect(fields):
    """Call every function; {name: value or None, ..., "unreadable": {name: reason}}."""
    values, unreadable = {}, {}
    for name, function in fields:
        try:
            values[name] = function()
        except Exception as error:  # noqa: BLE001 - the reason goes into the answer
            values[name] = None
            unreadable[name] = reason(error)
    values["unreadable"] = unreadable
    return values


def program(root, name):
    """Path of a program of the device, or None."""
    if root == "/":
        return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    return shutil.which(name, path=os.pathsep.join(below(root, folder) for folder in FOLDERS))


def run(root, words, timeout_s=10.0, text=None):
    """Run a program of the device, its questions unanswered unless `text` is given.

    Returns:
        exit status and everything it printed.

    Raises:
        ValueError: it is not there, or did not end in time.
    """
    path = program(root, words[0])
    if path is None:
        raise ValueError("no %s on this device" % words[0])
    process = subprocess.Popen(
        [path, *list(words[1:])],
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=dict(os.environ, LC_ALL="C", EDGE_DEVICE_ROOT=root),
    )
    try:
        shown = process.communicate(text, timeout=timeout_s)[0]
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ValueError("%s did not end within %g s" % (words[0], timeout_s)) from error
    return process.returncode, shown


def answer_of(root, words, timeout_s=10.0):
    """What a program printed.

    Raises:
        ValueError: it is not there, failed, or did not end in time.
    """
    status, shown = run(root, words, timeout_s)
    if status:
        raise ValueError("%s ended with %d: %s" % (" ".join(words), status, shown.strip()[-300:]))
    return shown
