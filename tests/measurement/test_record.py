from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.errors import MeasurementError
from toolchain.measurement.record import Record, append, read_records


def record(number: int) -> Record:
    return Record(
        "latency", f"engine {number}", "0" * 64, {"cpu_model": "x"}, float(number), "ms", interval=(number - 1.0, number + 1.0),
        versions={"onnxruntime": "1.2", "torch": None}, samples_path="samples/a.json", extra={"note": "ü\n"},
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "records.jsonl"
    for number in range(3):
        append(path, record(number))
    assert read_records(path) == [record(0), record(1), record(2)]
    assert len(path.read_bytes().splitlines()) == 3


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none") == []


def test_a_line_torn_anywhere_is_passed_over_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, record(0))
    first = path.read_bytes()
    append(path, record(1))
    whole = path.read_bytes()
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        survivors = [record(0), record(1)] if cut == len(whole) - 1 else [record(0)]  # only the line break is missing
        assert read_records(path) == survivors
        append(path, record(2))
        assert read_records(path) == [*survivors, record(2)]


def test_a_process_killed_while_appending_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    code = (
        "import sys; from pathlib import Path; from toolchain.measurement.record import Record, append\n"
        "for n in range(10**6):\n"
        "    append(Path(sys.argv[1]), Record('size', str(n), '0'*64, {'pad': 'x'*2000}, float(n), 'bytes'))\n"
        "    print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            said = int(process.stdout.readline())
        process.kill()
    append(path, record(7))
    records = read_records(path)
    assert [one.value for one in records[:-1]] == list(range(len(records) - 1))
    assert len(records) - 1 > said
    assert records[-1] == record(7)


def test_damage_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, record(0))
    path.write_bytes(b'{"kind": "lat\n' + path.read_bytes())
    with pytest.raises(MeasurementError, match=r"records\.jsonl:1"):
        read_records(path)


def test_keys_of_a_later_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({**record(0).to_json(), "weather": "fine"}) + "\n")
    assert read_records(path)[0].extra == {"note": "ü\n", "weather": "fine"}


def test_missing_values_need_a_reason() -> None:
    with pytest.raises(MeasurementError):
        Record("energy", "a", "0" * 64, {}, None, "mJ")
    with pytest.raises(MeasurementError):
        Record("latency", "a", "0" * 64, {}, 1.0, "ms", valid=False)
    assert Record("energy", "a", "0" * 64, {}, None, "mJ", reasons=("no sensor",)).value is None


def test_unknown_kind_and_infinite_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError):
        Record("speed", "a", "0" * 64, {}, 1.0, "ms")
    append(tmp_path / "r", record(0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        append(tmp_path / "r", Record("size", "a", "0" * 64, {}, float("inf"), "bytes"))
    assert read_records(tmp_path / "r") == [record(0)]
