from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.device.host import HostSpec, parse_host
from toolchain.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address", "user", "port"),
    [
        ("local", None, None, None),
        ("orin", "orin", None, None),
        ("pi@192.168.1.7", "192.168.1.7", "pi", None),
        ("pi@raspi.local:2222", "raspi.local", "pi", 2222),
        ("root@[fe80::1%eth0]:22", "fe80::1%eth0", "root", 22),
        ("root@fe80::1", "fe80::1", "root", None),
    ],
)
def test_forms(text: str, address: str | None, user: str | None, port: int | None) -> None:
    spec = parse_host(text)
    assert spec == HostSpec(text, address, user, port)
    assert spec.local == (text == "local")


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x", "a b", "pi@", "@host", "pi@host:", "pi@host:0", "pi@host:65536", "pi@host:x", "host;reboot", "$(id)",
     "a\nb", "-x@host", "pi@-host", "[::1", "::1:x", "pi@host:22:33"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_host(text)


@given(st.text(max_size=30))
def test_nothing_dangerous_gets_through(text: str) -> None:
    try:
        spec = parse_host(text)
    except UsageError:
        return
    for part in (spec.user, spec.address):
        assert part is None or (not part.startswith("-") and part.isascii() and not set(part) & set(" \t\n'\"`$;|&<>()\\*?"))
