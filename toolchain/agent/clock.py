"""The device's clocks, for the host to compare its own with."""

import time


def answer(job):
    """Both at one moment: monotonic (never set, begins anywhere) and unix time, s."""
    return {"monotonic_s": time.monotonic(), "unix_s": time.time()}
