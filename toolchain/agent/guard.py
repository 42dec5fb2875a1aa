"""Ends this process when nobody is left to work for: the host closed the link, or fell silent while it held the device, or came
back over a new link and has no use for what the old one left behind.

A thread that sleeps in poll(2), so it costs nothing meanwhile and acts even in the middle of a long call into a runtime.
"""

import faulthandler
import fcntl
import os
import re
import select
import signal
import socket
import struct
import termios
import threading
import time

GRACE_S = 2.0  # for the main thread to end by itself
END_S = 10.0  # for what must be put back at the end
HARD_LIMIT_S = 7200.0  # a runtime that keeps Python from running for so long has hung
RDHUP = getattr(select, "POLLRDHUP", 0x2000)
RUN = re.compile(r"^[0-9a-f]{8,64}\Z")


class Guard:
    """Watches the host's end of `link`, and other sockets for whoever asks."""

    def __init__(self, link, run=None):
        self._link, self._run, self._lease_s = link, run, None
        self._heard, self._unread = time.monotonic(), 0
        self._handlers, self._hooks, self._once, self._ended = {}, [], threading.Lock(), threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._null = open(os.devnull, "w")
        if run is not None:
            name = "\0edge-agent:%s:%d-%s" % (run, os.getpid(), os.urandom(4).hex())
            self.watch(listen(name), self._called)
        thread = threading.Thread(target=self._watch, name="guard")
        thread.daemon = True
        thread.start()

    def watch(self, listener, handler):
        """Call `handler(connection)`, in the guard's thread, for every connection to a listening socket."""
        self._handlers[listener.fileno()] = (listener, handler)
        os.write(self._wake_write, b"x")

    def lease(self, seconds):
        """From now on the host must send at least an empty line every so many seconds."""
        self._lease_s, self._heard = seconds, time.monotonic()
        os.write(self._wake_write, b"x")

    def at_end(self, hook):
        """Call `hook()` when this process ends, however it ends, unless it is killed."""
        self._hooks.append(hook)

    def finish(self):
        """What must be done before this process ends; done once."""
        with self._once:
            if self._ended.is_set():
                return
            self._ended.set()
            faulthandler.dump_traceback_later(END_S, exit=True, file=self._null)
            for hook in reversed(self._hooks):
                try:
                    hook()
                except Exception as error:  # noqa: BLE001 - the others must be called as well
                    os.write(2, ("at the end: %r\n" % error).encode("utf-8", "replace"))
            for pid in descendants(os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            faulthandler.cancel_dump_traceback_later()

    def _watch(self):
        while True:
            faulthandler.dump_traceback_later(HARD_LIMIT_S, exit=True, file=self._null)
            poll = select.poll()
            poll.register(self._link.fd_in, RDHUP)  # and, unasked, POLLHUP and POLLERR
            poll.register(self._wake_read, select.POLLIN)
            for number in list(self._handlers):
                poll.register(number, select.POLLIN)
            wait_s = HARD_LIMIT_S / 4 if self._lease_s is None else self._lease_s / 4
            for number, _ in poll.poll(wait_s * 1000):
                if number == self._link.fd_in:
                    self._end(GRACE_S)
                elif number == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif number in self._handlers:
                    listener, handler = self._handlers[number]
                    try:
                        handler(listener.accept()[0])
                    except OSError:  # whoever called has gone again
                        pass
            if self._lease_s is not None and self._silent_s() > self._lease_s:
                end_run(self._run)
                self._end(0.0)

    def _silent_s(self):
        """Seconds since the host was last heard, also when the main thread is too busy to read what it sent."""
        unread = struct.unpack("i", fcntl.ioctl(self._link.fd_in, termios.FIONREAD, b"\0" * 4))[0]
        if unread != self._unread:
            self._unread, self._heard = unread, time.monotonic()
        return time.monotonic() - max(self._heard, self._link.heard)

    def _called(self, connection):
        if peer(connection)[1] in (os.geteuid(), 0):
            self._end(0.0)
        connection.close()

    def _end(self, grace_s):
        self._ended.wait(grace_s)  # the main thread sees the closed link too, unless it is busy
        if self._ended.is_set():
            time.sleep(END_S)
        self.finish()
        os._exit(3)


def listen(name):
    """A listening socket under an abstract name: it is gone when this process is, however it ends."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(name)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def peer(connection):
    """Process and user at the other end."""
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[:2]


def end_run(run, wait_s=5.0):
    """End the other agents that one run of the host has left here, and wait until they are gone."""
    if run is None or not RUN.match(run):
        return
    start = "@edge-agent:%s:" % run
    own = "%s%d-" % (start, os.getpid())
    with open("/proc/net/unix") as stream:
        names = {line.split()[-1] for line in stream if start in line}
    calls = []
    for name in names:
        call = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        call.settimeout(wait_s)
        try:
            if name.startswith(start) and not name.startswith(own):
                call.connect("\0" + name[1:])
                calls.append(call)
        except OSError:  # it has just ended
            call.close()
    for call in calls:
        try:
            call.recv(1)  # ends when the other process does
        except OSError:
            pass
        call.close()


def descendants(pid):
    """All processes below `pid`."""
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as stream:
                for child in stream.read().split():
                    found += [int(child), *descendants(int(child))]
    except (OSError, ValueError):  # a kernel without that file, or a process that has just ended
        pass
    return found
