"""A meter that answers HTTP with JSON, such as a Shelly or Tasmota plug: `http://ADDRESS/PATH#json.path[*scale]`.

http://plug/rpc/Switch.GetStatus?id=0#apower
http://plug/cm?cmnd=Status%208#StatusSNS.ENERGY.Power
http://plug/status#meters.0.power
"""

from __future__ import annotations

import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

from toolchain.device.meters import Readings
from toolchain.device.meters.host_clock import stamped
from toolchain.device.session import AgentSession
from toolchain.errors import UsageError

EVERY_S = 0.5  # plugs give a new value about once a second
TIMEOUT_S = 2.0
LIMIT_BYTES = 1 << 18


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirects: the user named one address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class HttpMeter:
    """Asks one URL again and again; a failed answer is a gap."""

    kind, own_clock, refresh_s = "http", False, 3.0

    def __init__(self, text: str, every_s: float = EVERY_S) -> None:
        url, _, where = text.partition("#")
        path, star, scale = where.partition("*")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not path:
            raise UsageError("not an HTTP meter", got=repr(text), fix="http://ADDRESS/PATH#json.path, perhaps *scale behind it")
        try:
            self.scale = float(scale) if star else 1.0
        except ValueError as error:
            raise UsageError("the scale of an HTTP meter is not a number", got=repr(scale)) from error
        self.url, self.path, self.every_s = url, path.split("."), every_s
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay).open

    def about(self) -> dict[str, Any]:
        parts = urlsplit(self.url)  # without a password that may be in it
        return {"kind": self.kind, "url": f"{parts.scheme}://{parts.hostname}{parts.path}", "json_path": ".".join(self.path),
                "scale": self.scale}  # fmt: skip

    def read(self) -> float:
        """One reading, W.

        Raises:
            OSError, ValueError: no answer, or not a number there.
        """
        with self._open(self.url, timeout=TIMEOUT_S) as answer:
            data = answer.read(LIMIT_BYTES + 1)
        if len(data) > LIMIT_BYTES:
            raise ValueError(f"an answer of more than {LIMIT_BYTES} bytes")
        value = json.loads(data)
        for key in self.path:
            value = value[int(key)] if isinstance(value, list) else value[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{'.'.join(self.path)} is {value!r}, not a number")
        return float(value) * self.scale

    def running(self, session: AgentSession) -> AbstractContextManager[Readings]:
        return stamped(session, self._take)

    def _take(self, keep: Callable[..., None], stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.is_set():
            before = time.time()
            try:
                watts = self.read()
            except (OSError, ValueError, LookupError, TypeError, RecursionError, urllib.error.URLError):
                watts = math.nan
            keep((before + time.time()) / 2, watts)
            due = max(due + self.every_s, time.monotonic() - self.every_s)
            stop.wait(max(0.0, due - time.monotonic()))
