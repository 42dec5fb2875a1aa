"""Which machine: `local`, `user@addr[:port]`, or a Host of the user's own ssh config."""

from __future__ import annotations

import re
from dataclasses import dataclass

from toolchain.errors import UsageError

WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?)\](?::([0-9]+))?")
FORMS = "local, user@addr, user@addr:port, user@[ipv6]:port, or a Host of ~/.ssh/config"


@dataclass(frozen=True)
class HostSpec:
    """Where to go. user and port are None where ssh's own settings decide."""

    text: str
    address: str | None
    user: str | None = None
    port: int | None = None

    @property
    def local(self) -> bool:
        """This machine itself, without SSH."""
        return self.address is None


def parse_host(text: str) -> HostSpec:
    """Read a `--host` value.

    Raises:
        UsageError: none of the forms; nothing that ssh could take for an option or a shell for a command gets through.
    """
    text = text.strip()
    if text == "local":
        return HostSpec(text, None)
    user, at, rest = text.rpartition("@")
    if found := BRACKETED.fullmatch(rest):
        address, port = found[1], found[2]
    elif rest.count(":") > 1:  # a bare IPv6 address; with a port it needs brackets
        address, port = (rest, None) if BRACKETED.fullmatch(f"[{rest}]") else ("", None)
    else:
        address, _, port = rest.partition(":")
        port = port if ":" in rest else None
        address = address if WORD.fullmatch(address) else ""
    number = int(port) if port is not None and port.isdecimal() and len(port) <= 5 else None
    if not address or (at and not WORD.fullmatch(user)) or (port is not None and not (number and number < 65536)):
        raise UsageError("not a host", got=repr(text), fix=f"use {FORMS}")
    return HostSpec(text, address, user or None, number)
