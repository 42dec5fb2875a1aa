"""A process of its own that outlives the agent and puts the power mode back, however the agent ended.

It waits at one end of a socket whose other end only the agent has, so it wakes when the agent is gone: ended, killed, or worse.
"""

import os
import socket
import subprocess
import sys

from . import journal

# a child of a child, in a session of its own: neither the agent's end nor the link's takes it along
START = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "import importlib\n"
    "importlib.import_module(sys.argv[2] + '.keeper').keep(*sys.argv[3:])\n"
)
READY_S = 30.0
DONE = b"d"


def start(root, cache, token):
    """Start one.

    Returns:
        the agent's end of the socket.

    Raises:
        ValueError: it did not come up.
    """
    ours, its = socket.socketpair()
    place = os.path.abspath(__file__)
    for _ in range(__package__.count(".") + 2):
        place = os.path.dirname(place)
    words = [sys.executable, "-c", START, place, __package__, root, cache, token, str(its.fileno())]
    with open(os.devnull, "r+") as null:
        launcher = subprocess.Popen(words, stdin=null, stdout=null, stderr=null, pass_fds=(its.fileno(),), cwd="/")
    launcher.wait()
    its.close()
    ours.settimeout(READY_S)
    try:
        ready = ours.recv(1)
    except OSError:
        ready = b""
    if not ready:
        ours.close()
        raise ValueError("the process that puts the power mode back did not start")
    return ours


def dismiss(ours):
    """Let it go and wait until it has."""
    try:
        ours.sendall(DONE)
        ours.recv(1)  # ends when the process does
    except OSError:
        pass
    ours.close()


def keep(root, cache, token, descriptor):
    """Wait until the agent is gone; then put back what its journal says, unless somebody else already has."""
    its = socket.socket(fileno=int(descriptor))
    path = journal.place(root, cache)
    its.sendall(b"r")
    try:
        if its.recv(1) == DONE:
            return
    except OSError:
        pass
    held = journal.lock(path, 120.0) if os.path.exists(path) else None
    if held is None:
        return
    left = journal.load(path)
    if left is not None and left["token"] == token and not journal.put_back(root, path, left)[0]:
        journal.tidy(path)
