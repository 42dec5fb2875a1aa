"""External meters: what they read, what they refuse, and whose clock their times are on."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.meter import Plug, plugged
from toolchain.device.clock_offset import ClockOffset
from toolchain.device.meters import Readings, open_meter
from toolchain.device.meters.command import CommandMeter, numbers
from toolchain.device.meters.csv_file import CsvMeter
from toolchain.device.meters.host_clock import put_on_device_clock
from toolchain.device.meters.http_json import LIMIT_BYTES, HttpMeter
from toolchain.errors import UsageError


class Session:
    """A device whose clock is `ahead` of this host's and whose answers take a while."""

    def __init__(self, ahead: float = 100.0, slow: float = 0.0) -> None:
        self.ahead, self.slow, self.asked = ahead, slow, 0

    def request(self, op: str, **_: Any) -> dict[str, float]:
        self.asked += 1
        time.sleep(self.slow if self.asked % 4 else self.slow / 10)
        there = time.time() + self.ahead
        time.sleep(self.slow if self.asked % 4 else self.slow / 20)
        return {"monotonic_s": there, "unix_s": 0.0}


@pytest.fixture
def plug() -> Iterator[Plug]:
    with plugged(lambda t: 5.5) as one:
        yield one


def at(host_unix: float, ahead: float, error: float) -> ClockOffset:
    return ClockOffset(0.0, ahead, error, 2 * error, 20, host_unix)


def test_times_move_along_the_drift_of_the_clocks() -> None:
    readings = Readings(own_clock=False, t_s=[0.0, 500.0, 1000.0], watts=[1.0] * 3)
    put_on_device_clock(readings, at(0.0, 10.0, 0.001), at(1000.0, 10.2, 0.004))
    assert readings.t_s == pytest.approx([10.0, 510.1, 1010.2])
    assert (readings.offset_error_s, readings.problem) == (0.004, "")


def test_a_clock_that_is_set_meanwhile_is_an_error_of_the_offset() -> None:
    readings = Readings(own_clock=False, t_s=[50.0], watts=[1.0])
    put_on_device_clock(readings, at(0.0, 10.0, 0.001), at(100.0, 13.0, 0.001))
    assert readings.offset_error_s == pytest.approx(3.001)
    assert "was set" in readings.problem


def test_http_reads_the_path_and_scales(plug: Plug) -> None:
    assert HttpMeter(f"{plug.url}#apower").read() == 5.5
    plug.answer = b'{"meters": [{"power": 7}], "ok": true}'
    assert HttpMeter(f"{plug.url}#meters.0.power*0.001").read() == pytest.approx(0.007)


@pytest.mark.parametrize(
    "answer",
    [b"no JSON", b"{}", b'{"apower": "5"}', b'{"apower": true}', b'{"apower": NaN}', b"[1]", b"[" * 100_000,
     b'{"apower": 5, "x": "' + b"x" * LIMIT_BYTES + b'"}'],
    ids=lambda answer: repr(answer[:14]),
)  # fmt: skip
def test_an_answer_that_is_no_number_is_a_gap(plug: Plug, answer: bytes) -> None:
    plug.answer = answer
    meter = HttpMeter(f"{plug.url}#apower", every_s=0.02)
    with meter.running(Session()) as readings:  # type: ignore[arg-type]
        time.sleep(0.1)
    assert readings.t_s
    assert all(math.isnan(watts) for watts in readings.watts)
    assert not readings.problem


def test_http_goes_nowhere_but_where_it_was_told(plug: Plug) -> None:
    """A redirect is not followed: the user named one address."""
    import http.server

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", plug.url)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with pytest.raises(OSError, match="302"):
            HttpMeter(f"http://127.0.0.1:{server.server_port}/x#apower").read()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_http_stamps_on_the_devices_clock_and_misses_what_fails(plug: Plug) -> None:
    with HttpMeter(f"{plug.url}#apower", every_s=0.02).running(Session()) as readings:  # type: ignore[arg-type]
        begin = time.time()
        time.sleep(0.15)
        plug.silent = True
        time.sleep(0.15)
    assert readings.watts[0] == 5.5
    assert math.isnan(readings.watts[-1])
    assert abs(readings.t_s[0] - 100 - begin) < 0.5
    assert readings.offset_error_s is not None
    assert Readings.from_json(readings.to_json()).t_s == readings.t_s


@pytest.mark.parametrize(
    "text", ["http://plug", "http://plug/x", "ftp://plug/x#a", "http:///x#a", "http://plug/x#a*b", "http:plug#a"]
)
def test_not_an_http_meter(text: str) -> None:
    with pytest.raises(UsageError):
        HttpMeter(text)


def test_a_password_in_the_address_is_not_recorded() -> None:
    assert "secret" not in str(HttpMeter("http://user:secret@plug/status#power").about())


def test_command_lines_become_readings() -> None:
    script = "import time\nfor i in range(1000):\n print(4 + i, 2.5 * i, flush=True)\n time.sleep(0.02)"
    with CommandMeter(f'{sys.executable} -c "{script}"').running(Session()) as readings:  # type: ignore[arg-type]
        time.sleep(0.6)
    assert readings.watts[:3] == [4.0, 5.0, 6.0]
    assert readings.joules[:3] == [0.0, 2.5, 5.0]
    assert sorted(readings.t_s) == readings.t_s


def test_a_command_that_ends_says_so() -> None:
    with CommandMeter(f'{sys.executable} -c "print(5)"').running(Session()) as readings:  # type: ignore[arg-type]
        time.sleep(0.8)
    assert readings.watts == [5.0]
    assert "has ended" in readings.problem


@pytest.mark.parametrize("line", [b"", b"watts", b"nan", b"1 2 3", b"inf", b"\xff"])
def test_a_line_that_is_no_number_is_a_gap(line: bytes) -> None:
    assert math.isnan(numbers(line)[0])


@pytest.mark.parametrize("text", ["", "no-such-program-here 1", 'echo "open'])
def test_not_a_command(text: str) -> None:
    with pytest.raises(UsageError):
        CommandMeter(text)


def csv_of(path: Path, added: str, header: str = "timestamp,watts", before: str = "") -> Readings:
    path.write_text(header + "\n" + before)
    with CsvMeter(str(path), flush_s=0.0).running(None) as readings, path.open("a") as stream:  # type: ignore[arg-type]
        stream.write(added)
    return readings


def test_csv_takes_the_rows_that_are_added(tmp_path: Path) -> None:
    readings = csv_of(tmp_path / "m.csv", "10,4.5\n11,x\n12\n13,nan\n14,5.5\n15,6", before="1,9\n2,9\n")
    assert (readings.t_s, readings.watts, readings.own_clock) == ([10.0, 14.0], [4.5, 5.5], True)


def test_csv_with_other_columns_around(tmp_path: Path) -> None:
    readings = csv_of(tmp_path / "m.csv", "a,10,4.5,100\n", header="name, Timestamp ,WATTS,joules")
    assert (readings.t_s, readings.watts, readings.joules) == ([10.0], [4.5], [100.0])


def test_csv_without_the_columns_says_so(tmp_path: Path) -> None:
    assert "no columns" in csv_of(tmp_path / "m.csv", "1,2\n", header="time,power").problem


def test_a_meter_is_named_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("timestamp,watts\n")
    assert open_meter(f"csv:{tmp_path / 'm.csv'}").kind == "csv"
    assert open_meter("http://plug/status#power").kind == "http"
    assert open_meter("http:http://plug/status#power").kind == "http"
    assert open_meter(f"command:{sys.executable} -c 1").kind == "command"
    for text in ("csv:", "csv:/nowhere.csv", "tegrastats:x", "http:", ""):
        with pytest.raises(UsageError):
            open_meter(text)
