"""First program on a device: fetch the agent if it is not there yet, check its hash, run it.

Sent as text on standard input with one line of JSON behind it (the order), so it stands alone and costs one round trip. It never
reads further than it must: what follows belongs to the agent.
"""

import hashlib
import io
import json
import os
import runpy
import sys
import tempfile
import zlib

MARKER = "\x1eedge1 "
VENV, MARK = "venv", "edge-toolchain-whole"  # environment that `install` makes, and the file it writes last


def say(message):
    # the line break in front ends whatever a login script left unfinished on the line
    sys.stdout.write("\n" + MARKER + json.dumps(message) + "\n")
    sys.stdout.flush()


def digest(path):
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except IOError:
        return None


def receive(given, path, size, sha256):
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".agent-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(zlib.decompress(given.read(size)))
            stream.flush()
            os.fsync(stream.fileno())
        got = digest(partial)
        if got != sha256:
            raise ValueError("the agent arrived damaged: sha256 %s, expected %s" % (got, sha256))
        os.rename(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def own_python(order):
    """Python of the environment that `install` has made, where the host leaves the choice to the device."""
    venv = os.path.join(os.path.expanduser(order["cache"]), VENV)
    python = os.path.join(venv, "bin", "python")
    whole = order.get("venv") and os.path.exists(os.path.join(venv, MARK)) and os.access(python, os.X_OK)
    return python if whole else None


def load():
    given = io.BufferedReader(io.FileIO(0, closefd=False), 1)  # a buffer of one byte reads nothing ahead
    order = json.loads(given.readline().decode("utf-8"))
    path = os.path.join(os.path.expanduser(order["cache"]), "agent", order["sha256"] + ".pyz")
    if digest(path) != order["sha256"]:
        say({"need": order["sha256"]})
        try:
            receive(given, path, order["size"], order["sha256"])
        except (OSError, ValueError, zlib.error) as error:
            kind = "disk_full" if getattr(error, "errno", None) in (28, 122) else "upload"
            say({"error": {"kind": kind, "text": str(error)}})
            return 1
    python = own_python(order)
    if python is not None:
        os.execv(python, [python, path, json.dumps(order)])
    sys.path[:] = [entry for entry in sys.path if entry]  # what lies in the home folder must not shadow numpy
    sys.argv = [path, json.dumps(order)]
    runpy.run_path(path, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(load())
