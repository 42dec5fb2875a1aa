"""Files to and from the host: named by their hash, verified, renamed into place; a broken transfer goes on where it was."""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time

from .wire import AgentError

CHUNK = 1 << 16
ACK = 1 << 15  # the host hears how far an upload has come, so that a slow link is not taken for a dead one
SYNC_S = 5.0
TICK = 64 << 20
DAY_S = 86400.0
KEEP_S = 14 * DAY_S  # files that no one has asked for in this time are removed
FOLDERS = (("files", KEEP_S), ("out", DAY_S), ("agent", KEEP_S), ("engines", KEEP_S))
NAME = re.compile(r"^[A-Za-z0-9_]{0,16}(\.[A-Za-z0-9]{1,8})?\Z")
HASH = re.compile(r"^[0-9a-f]{64}\Z")
OUTPUT = re.compile(r"^[0-9a-f]{64}(\.[a-z0-9]{1,8})?\Z")


def sha256(path, tick=None):
    """Hex digest of a file; `tick(bytes)` is called now and then."""
    digest, done, told = hashlib.sha256(), 0, 0
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
            done += len(block)
            if tick is not None and done - told >= TICK:
                told = done
                tick(done)
    return digest.hexdigest()


def keep(path):
    """An open file that no agent sweeps away while it is open, whatever a clock that was set says of its age."""
    stream = open(path, "rb")
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # a file system without locks, or just being swept
        pass
    return stream


def unused(path):
    """Whether no agent keeps or writes it at the moment."""
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def sweep(cache):
    """Remove what was not used for long and what broken transfers left, so that a small card does not fill up."""
    for folder, keep_s in FOLDERS:
        folder = os.path.join(cache, folder)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            try:
                age_s = time.time() - os.path.getmtime(path)
                if age_s > (DAY_S if name.startswith(".") else keep_s) and unused(path):
                    os.remove(path)
            except OSError:  # another agent was quicker, or it is not ours
                pass


def put(job):
    """Receive a file, or find that it is already here and whole.

    The host is told how much an earlier try has left and its hash; it answers {"offset"}, and the bytes from there follow.
    """
    name, size, want = job.need("name", str), job.need("size", int), job.need("sha256", str)
    if not HASH.match(want) or not NAME.match(name):
        raise AgentError("bad_request", "bad name or hash of an upload")
    folder = os.path.join(job.cache, "files")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, want + name)
    if os.path.isfile(path) and sha256(path, lambda done: job.event("hashed", bytes=done)) == want:
        os.utime(path, None)
        job.memory.setdefault("kept", []).append(keep(path))
        return {"path": path, "reused": True}
    stream, partial = open_partial(folder, want)
    with stream:
        have = os.path.getsize(partial)
        if have > size:
            stream.truncate(0)
            have = 0
        room(folder, size - have, partial)
        job.event("have", bytes=have, sha256=sha256(partial, lambda done: job.event("hashed", bytes=done)))
        offset = job.link.receive()
        if offset is None:
            raise AgentError("upload", "the upload did not begin")
        offset = offset.get("offset")
        if offset not in (0, have):
            raise AgentError("bad_request", "an upload from %r; %d bytes are here" % (offset, have))
        stream.seek(offset)
        stream.truncate()
        try:
            receive(job, stream, offset, size)
        except OSError:
            os.remove(partial)  # a full disk does not become emptier by what is of no use yet
            raise
        if sha256(partial, lambda done: job.event("hashed", bytes=done)) != want:
            os.remove(partial)
            raise AgentError("upload", "the upload arrived damaged: its sha256 is not %s" % want)
        os.rename(partial, path)
    job.memory.setdefault("kept", []).append(keep(path))
    return {"path": path, "reused": False}


def open_partial(folder, want):
    """What is here of a file, as a stream that is ours alone, and its path.

    The agent of a link that broke may not have noticed yet: then we go on with a copy of what it has.
    """
    path = os.path.join(folder, ".partial-" + want)
    while True:
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle, own = tempfile.mkstemp(prefix=".partial-", dir=folder)
            copy = os.fdopen(handle, "r+b")
            with stream:
                shutil.copyfileobj(stream, copy)
            copy.flush()
            return copy, own
        try:
            if os.stat(path).st_ino == os.fstat(stream.fileno()).st_ino:
                return stream, path
        except OSError:
            pass
        stream.close()  # its last user has just finished it: begin anew


def room(folder, need, partial):
    """See that there is space before anything is sent."""
    free = os.statvfs(folder)
    free = free.f_bavail * free.f_frsize
    if need > free:
        os.remove(partial)
        raise AgentError("disk_full", "%d MB are needed in %s, %d MB are free" % (need // 1000000 + 1, folder, free // 1000000))


def receive(job, stream, offset, size):
    """The rest of an upload, on the disk when this returns."""
    got, told, synced = offset, offset, time.monotonic()
    job.link.midway = True  # if this fails, what comes next from the host is no request
    for block in job.link.blocks(size - offset):
        stream.write(block)
        got += len(block)
        if got - told >= ACK or got == size:
            stream.flush()
            if time.monotonic() - synced > SYNC_S:
                os.fsync(stream.fileno())
                synced = time.monotonic()
            told = got
            job.event("got", bytes=got)
    job.link.midway = False
    stream.flush()
    os.fsync(stream.fileno())


def new_output(job, suffix):
    """Path of a new empty file in the agent's own folder; kept for as long as the session lasts, also under its later name."""
    folder = os.path.join(job.cache, "out")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, path = tempfile.mkstemp(prefix=".out-", suffix=suffix, dir=folder)
    os.close(handle)
    job.memory.setdefault("kept", []).append(keep(path))
    return path


def publish(path):
    """Name a finished output by its hash, so that any later session can fetch it.

    Returns:
        path, sha256 and size.
    """
    name = sha256(path)
    final = os.path.join(os.path.dirname(path), name + os.path.splitext(path)[1])
    os.rename(path, final)
    return {"path": final, "sha256": name, "size": os.path.getsize(final)}


def output(job):
    """The request's `path`, which must be one that `publish` gave."""
    path = job.need("path", str)
    folder, name = os.path.split(path)
    if folder != os.path.join(job.cache, "out") or not OUTPUT.match(name):
        raise AgentError("bad_request", "not an output of this agent: %s" % path)
    return path


def get(job):
    """Send an output from `offset` on.

    Returns:
        {"found"}: False if it is no longer here.
    """
    path, offset = output(job), job.need("offset", int)
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        return {"found": False}
    with stream:
        stream.seek(offset)
        for block in iter(lambda: stream.read(CHUNK), b""):
            job.event_with(block, "raw", size=len(block))
    return {"found": True}


def drop(job):
    """Remove an output that the host has got."""
    path = output(job)
    if os.path.exists(path):
        os.remove(path)
    return {}
