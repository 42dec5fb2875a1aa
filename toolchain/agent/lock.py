"""One at a time on a device: a lock for the whole machine that the kernel takes back when its holder ends, however it ends.

The lock is an abstract socket, so it leaves nothing on the disk and works between users. Whoever connects to it is told who holds
it, and stays connected to learn the moment it is free. It does not reach across containers with a network of their own.
"""

import errno
import hashlib
import json
import os
import select
import socket
import time

from . import guard

TELL_EVERY_S = 10.0
MAX_TEXT = 4096


def name_of(root):
    """The lock's name: of this machine, and a device that is played from files (`root`) has its own."""
    device = "%s\n%s" % (socket.gethostname(), os.path.abspath(root))
    return "\0edge-toolchain-lock:" + hashlib.sha256(device.encode("utf-8")).hexdigest()[:32]


def claim(name):
    """The lock as a listening socket, or None while another process has it."""
    try:
        return guard.listen(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise


def visit(name):
    """A connection to whoever holds the lock and what it says of itself; None, None if it has just ended."""
    call = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    call.settimeout(2.0)
    try:
        call.connect(name)
        pid, uid = guard.peer(call)
        text = call.recv(MAX_TEXT)
    except socket.timeout:  # frozen
        text = b"{}"
    except OSError:
        text = b""
    if not text:
        call.close()
        return None, None
    try:
        said = json.loads(text.decode("utf-8"))
    except ValueError:  # no agent of ours
        said = None
    holder = {"who": "process %d of user %d" % (pid, uid), "owner": None, "held_s": None}
    if isinstance(said, dict):
        holder.update({key: said[key] for key in holder if key in said})
    return call, holder


def ended(call, seconds):
    """Whether the holder let go within `seconds`."""
    return bool(select.select([call], [], [], max(0.0, seconds))[0])


def lock(job):
    """Take the device for this process, waiting up to `wait_s`.

    Returns:
        {"held": True} if it is ours now, or belongs to another session of the same owner already; else {"held": False, "holder"}.
    """
    owner, wait_s = job.need("owner", str), job.need("wait_s", (int, float))
    about = {"who": job.need("who", str)[:500], "owner": owner}
    if "lock" in job.memory:
        return {"held": True, "holder": None}
    name, until = name_of(job.root), time.monotonic() + wait_s
    while True:
        listener = claim(name)
        if listener is not None:
            return hold(job, listener, about)
        call, holder = visit(name)
        if call is None:
            time.sleep(0.05)
            continue
        with call:
            if holder.pop("owner") == owner:
                return {"held": True, "holder": holder}
            if wait_s > 0:
                job.event("busy", **holder)
            if not ended(call, min(until - time.monotonic(), TELL_EVERY_S)) and time.monotonic() >= until:
                return {"held": False, "holder": holder}


def hold(job, listener, about):
    """Keep the lock as long as this process lives, and tell visitors who has it."""
    since, visitors = time.monotonic(), []

    def tell(call):
        call.settimeout(1.0)
        try:
            call.sendall(json.dumps(dict(about, held_s=time.monotonic() - since)).encode("utf-8"))
        except OSError:
            pass
        visitors.append(call)  # kept open: its end tells the visitor that the device is free
        for old in visitors[:-64]:
            old.close()
        del visitors[:-64]

    job.memory["lock"] = listener
    job.guard.watch(listener, tell)
    if job.need("lease_s", (int, float)) > 0:
        job.guard.lease(job.request["lease_s"])
    return {"held": True, "holder": None}
