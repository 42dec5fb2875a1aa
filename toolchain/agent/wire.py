"""JSON lines between the host and this process, over private file descriptors that no library prints to."""

import json
import os
import select
import sys
import time

MARKER = b"\x1eedge1 "
PROTOCOL = 2
IDLE_LIMIT_S = 3600.0  # a host that is gone without closing the link leaves no process behind for longer
UPLOAD_IDLE_S = 120.0
MAX_LINE = 1 << 20


class AgentError(Exception):
    """Something the host must hear about; `kind` decides which error it raises there."""

    def __init__(self, kind, text):
        Exception.__init__(self, text)
        self.kind = kind


class Wire:
    """One request line in, any number of event lines and one answer line out. Empty lines only say that the host is there.

    Attributes:
        heard: when the host last sent anything, monotonic clock.
        midway: raw bytes of the host are still to come, so nothing after them can be told apart.
    """

    def __init__(self, fd_in, fd_out):
        self.fd_in, self._out, self._buffer, self.heard = fd_in, fd_out, b"", time.monotonic()
        self.midway = False

    def send(self, message, raw=b""):
        """One line, and raw bytes behind it."""
        data = MARKER + json.dumps(message, allow_nan=False).encode("utf-8") + b"\n" + raw
        view = memoryview(data)
        while len(view):
            view = view[os.write(self._out, view) :]

    def receive(self):
        """The next request as a dict, or None when the host has closed the link or forgotten us."""
        line = b""
        while not line.strip():
            while b"\n" not in self._buffer:
                if len(self._buffer) > MAX_LINE:
                    raise AgentError("bad_request", "a request line is longer than %d bytes" % MAX_LINE)
                block = self._read(IDLE_LIMIT_S)
                if not block:
                    return None
                self._buffer += block
            line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            request = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise AgentError("bad_request", "a request is not JSON: %s" % error) from error
        if not isinstance(request, dict):
            raise AgentError("bad_request", "a request is not an object")
        return request

    def blocks(self, size):
        """Exactly `size` raw bytes that follow a request, in pieces.

        Raises:
            AgentError: the host stopped before the end.
        """
        left = size
        while left:
            block, self._buffer = (self._buffer or self._read(UPLOAD_IDLE_S)), b""
            if not block:
                raise AgentError("upload", "the upload ended %d bytes early" % left)
            block, self._buffer = block[:left], block[left:]
            left -= len(block)
            yield block

    def _read(self, idle_s):
        ready = select.select([self.fd_in], [], [], idle_s)[0]
        block = os.read(self.fd_in, 1 << 16) if ready else b""
        self.heard = time.monotonic()
        return block


def take_over_stdio():
    """Keep stdin and stdout for the protocol; whatever a library prints from now on goes to stderr.

    Returns:
        the Wire.
    """
    sys.stdout.flush()
    fd_in, fd_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout = sys.stderr
    return Wire(fd_in, fd_out)
