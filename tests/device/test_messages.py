from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.device.engine_messages import InferAnswer, Turn
from toolchain.device.messages import Failure, Hello, check, parse_line
from toolchain.errors import ProtocolError

HELLO = {"protocol": 2, "python": "3.6.9", "arch": "aarch64", "pid": 7, "boot_id": None, "oom_kills": None}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_protocol_error(line: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(parse_line(line), dict)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"1", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_hostile_lines(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_line(line)


@given(json_values)
def test_any_value_is_a_message_or_a_protocol_error(value: object) -> None:
    for kind in (Hello, Turn, InferAnswer, Failure):
        with pytest.raises(ProtocolError):
            check(kind, value)


@pytest.mark.parametrize(
    "change", [{"protocol": "1"}, {"protocol": True}, {"python": None}, {"pid": 1.5}, {"arch": "x" * 5000}], ids=json.dumps
)
def test_wrong_types_name_the_field(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match=next(iter(change))):
        check(Hello, {**HELLO, **change})


def test_what_a_terminal_would_obey_is_made_visible() -> None:
    assert check(Hello, {**HELLO, "arch": "\x1b[2Jarm"}).arch == "\\x1b[2Jarm"


@pytest.mark.parametrize(
    ("start_s", "latency_ms"),
    [
        ([0.0, 0.001], [5.0, 5.0]),
        ([0.0], [5.0, 5.0]),
        ([0.0], [0.0]),
        ([0.0], [-1.0]),
        ([0.0], [float("nan")]),
        ([float("inf")], [1.0]),
        ([0.0], ["1"]),
    ],
)
def test_impossible_samples(start_s: list[float], latency_ms: list[float]) -> None:
    with pytest.raises(ProtocolError):
        check(Turn, {"start_s": start_s, "latency_ms": latency_ms, "rss_mb": None, "stopped": "enough"})
    check(Turn, {"start_s": [0.0, 0.006], "latency_ms": [5.0, 5.0], "rss_mb": None, "stopped": "enough"})


@pytest.mark.parametrize("path", ["relative", "/a\nb", ""])
def test_paths_of_a_device(path: str) -> None:
    answer = {"path": path, "sha256": "0" * 64, "size": 1, "images": 1, "batch": 1, "seconds": 1.0, "load_ms": 1.0}
    with pytest.raises(ProtocolError, match="path"):
        check(InferAnswer, {**answer, "provider": "p", "runtime_version": "1"})
