from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from toolchain.agent import wire
from toolchain.device import messages


@pytest.fixture
def pipes() -> Iterator[tuple[wire.Wire, int, int]]:
    """A Wire, the end to write requests to and the end to read answers from."""
    requests, answers = os.pipe(), os.pipe()
    yield wire.Wire(requests[0], answers[1]), requests[1], answers[0]
    for end in (*requests, *answers):
        try:
            os.close(end)
        except OSError:
            continue


def test_host_and_agent_agree_on_the_protocol() -> None:
    assert (wire.MARKER, wire.PROTOCOL) == (messages.MARKER, messages.PROTOCOL)


def test_requests_and_raw_bytes_follow_each_other(pipes: tuple[wire.Wire, int, int]) -> None:
    link, write, _ = pipes
    os.write(write, b'{"id": 1}\n\x00\n\xff{"id": 2}\n')
    assert link.receive() == {"id": 1}
    assert b"".join(link.blocks(3)) == b"\x00\n\xff"
    assert link.receive() == {"id": 2}
    os.close(write)
    assert link.receive() is None


def test_empty_lines_only_say_that_the_host_is_there(pipes: tuple[wire.Wire, int, int]) -> None:
    link, write, _ = pipes
    before = link.heard
    os.write(write, b'\n\n{"id": 1}\n\n')
    assert link.receive() == {"id": 1}
    assert link.heard >= before
    os.close(write)
    assert link.receive() is None


def test_raw_bytes_follow_an_event(pipes: tuple[wire.Wire, int, int]) -> None:
    pipes[0].send({"id": 1}, b"\x00\n\xff")
    assert os.read(pipes[2], 1000) == wire.MARKER + b'{"id": 1}\n\x00\n\xff'


def test_upload_that_stops_early(pipes: tuple[wire.Wire, int, int]) -> None:
    link, write, _ = pipes
    os.write(write, b"ab")
    os.close(write)
    with pytest.raises(wire.AgentError, match="3 bytes early"):
        list(link.blocks(5))


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n"])
def test_bad_requests(pipes: tuple[wire.Wire, int, int], line: bytes) -> None:
    os.write(pipes[1], line)
    with pytest.raises(wire.AgentError) as caught:
        pipes[0].receive()
    assert caught.value.kind == "bad_request"


def test_answers_are_marked_lines_and_never_hold_nan(pipes: tuple[wire.Wire, int, int]) -> None:
    link, _, read = pipes
    link.send({"id": 1, "ok": {"text": "a\nb"}})
    line = os.read(read, 1000)
    assert line.startswith(wire.MARKER)
    assert line.count(b"\n") == 1
    with pytest.raises(ValueError, match="JSON"):
        link.send({"id": 1, "ok": float("nan")})


def test_what_libraries_print_does_not_reach_the_protocol() -> None:
    code = (
        "import os, sys; from toolchain.agent import wire\n"
        "link = wire.take_over_stdio()\n"
        "print('noise from Python'); sys.stdout.flush(); os.write(1, b'noise from C\\n')\n"
        "assert os.read(0, 10) == b''\n"
        "link.send({'got': link.receive()})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b'{"id": 5}\n', capture_output=True, check=True)
    assert json.loads(done.stdout.replace(wire.MARKER, b"")) == {"got": {"id": 5}}
    assert b"noise from Python" in done.stderr
    assert b"noise from C" in done.stderr
