"""Files to and from the host: named by their hash, verified, renamed into place."""

import base64
import hashlib
import os
import re
import tempfile
import time

from .wire import AgentError

CHUNK = 1 << 18
KEEP_S = 14 * 86400.0  # files that no one has asked for in this time are removed


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sweep(cache):
    """Remove what was not used for long, so that a small card does not fill up."""
    for folder, keep_s in (("files", KEEP_S), ("out", 86400.0)):
        folder = os.path.join(cache, folder)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            try:
                age_s = time.time() - os.path.getmtime(path)
                if age_s > (86400.0 if name.startswith(".partial-") else keep_s):
                    os.remove(path)
            except FileNotFoundError:  # another agent was quicker
                pass


def put(job):
    """Receive a file, or find that it is already here and whole."""
    name, size, want = job.need("name", str), job.need("size", int), job.need("sha256", str)
    if not re.match(r"^[0-9a-f]{64}$", want) or not re.match(r"^[A-Za-z0-9_]{0,16}(\.[A-Za-z0-9]{1,8})?$", name):
        raise AgentError("bad_request", "bad name or hash of an upload")
    folder = os.path.join(job.cache, "files")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, want + name)
    sweep(job.cache)
    if os.path.isfile(path) and sha256(path) == want:
        os.utime(path, None)
        return {"path": path, "reused": True}
    handle, partial = tempfile.mkstemp(prefix=".partial-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            job.event("need", size=size)
            problem = None
            for block in job.link.blocks(size):
                try:
                    if problem is None:
                        stream.write(block)
                        stream.flush()
                except OSError as error:  # go on reading: the host is in the middle of sending
                    problem = error
            if problem is not None:
                raise problem
            os.fsync(stream.fileno())
        got = sha256(partial)
        if got != want:
            raise AgentError("upload", "the upload arrived damaged: sha256 %s, expected %s" % (got, want))
        os.rename(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return {"path": path, "reused": False}


def new_output(job, suffix):
    """Path of a new empty file in the agent's own folder."""
    folder = os.path.join(job.cache, "out")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, path = tempfile.mkstemp(prefix="out-", suffix=suffix, dir=folder)
    os.close(handle)
    return path


def get(job):
    """Send a file that an operation of this process wrote, then remove it here."""
    path = job.need("path", str)
    if path not in job.memory.get("outputs", ()):
        raise AgentError("bad_request", "not a file of this session: %s" % path)
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(CHUNK), b""):
            job.event("block", base64=base64.b64encode(block).decode("ascii"))
    os.remove(path)
    job.memory["outputs"].remove(path)
    return {}
