"""One table across devices."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from toolchain.report.fleet_table import board_of, fleet_table, rows_of


def engine(p50: float, ratio: float | None = None, **changes: Any) -> dict[str, Any]:
    speedup = None if ratio is None else {"value": ratio, "low": ratio - 0.1, "high": ratio + 0.1}
    nothing = {"status": "not_measured", "reason": "not_requested", "energy_total_mj": None, "scope": None}
    latency = {"p50": {"value": p50, "low": p50 - 1, "high": p50 + 1}}
    return {"latency_ms": latency, "speedup": speedup, "energy": nothing, "accuracy": None, **changes}


def device(host: str, board: str | None = "Raspberry Pi 5", **changes: Any) -> dict[str, Any]:
    result = {
        "device": {"hostname": host, "board": board, "dmi": None, "cpu_model": "Cortex-A76"}, "reasons": [],
        "state_before": {"boot_id": host}, "engines": {"dense": engine(80.0), "int8": engine(20.0, 4.0)}, **changes,
    }  # fmt: skip
    return {"host": host, "error": None, "result": result}


DEAD = {"host": "nano", "error": {"kind": "UnreachableError", "what": "nano: no route", "text": "long"}, "result": None}


def shown(*devices: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(fleet_table(rows_of(devices)))
    return capture.get()


def test_a_row_for_every_engine_and_for_every_dead_host() -> None:
    rows = rows_of([device("pi5"), DEAD])
    assert [(row["host"], row["engine"], row["valid"]) for row in rows] == [
        ("pi5", "dense", True), ("pi5", "int8", True), ("nano", None, False),
    ]  # fmt: skip
    assert rows[1] == {
        "host": "pi5", "board": "Raspberry Pi 5", "engine": "int8", "p50_ms": 20.0, "p50_low_ms": 19.0, "p50_high_ms": 21.0,
        "times_faster": 4.0, "times_faster_low": 3.9, "times_faster_high": 4.1, "map50_95": None, "energy_mj": None,
        "energy_uncertainty_mj": None, "energy_scope": None, "energy_reason": "not_requested", "valid": True, "why": [],
    }  # fmt: skip
    assert rows[2]["why"] == ["nano: no route"]


def test_for_people() -> None:
    text = shown(device("pi5"), DEAD)
    assert "…" not in text
    for word in ("pi5", "Raspberry Pi 5", "20.0", "19.0–21.0", "4.00×", "3.90×–4.10×", "nano: no route", "NO"):
        assert word in text
    assert "mAP" not in text, "a column that nobody asked for"
    assert "mJ" not in text


def measured(scope: str) -> dict[str, Any]:
    return {"status": "measured", "reason": None, "energy_total_mj": 12.345, "uncertainty_total_mj": 0.25, "scope": scope}


NO_SENSOR = {"status": "not_measured", "reason": "no_sensor", "energy_total_mj": None, "scope": None}


def test_energy_is_never_without_what_it_covers() -> None:
    orin = device("orin", engines={"int8": engine(5.0, energy=measured("module"), accuracy={"map50_95": 0.5})})
    text = shown(orin, device("pi4", engines={"int8": engine(80.0, energy=NO_SENSOR)}))
    for word in ("12.3 ± 0.250", "module", "no sensor", "0.5000"):
        assert word in text
    assert "not comparable" not in text


def test_energy_that_was_asked_for_and_measured_nowhere_says_why() -> None:
    assert "no sensor" in shown(device("pi4", engines={"int8": engine(80.0, energy=NO_SENSOR)}))


def test_energy_of_different_scopes_is_marked() -> None:
    boards = {"orin": "module", "nx": "module", "pi4": "ac_wall"}
    text = shown(*(device(host, engines={"int8": engine(5.0, energy=measured(scope))}) for host, scope in boards.items()))
    assert "energy of different scopes is not comparable: ac_wall, module" in text


def test_what_must_not_be_used_says_why() -> None:
    text = shown(device("pi5", reasons=["the device throttled"]))
    assert "pi5: the device throttled" in text
    assert "NO" in text


def test_two_names_of_one_device() -> None:
    one, other = device("pi5"), device("pi5")
    other["host"] = "10.0.0.5"
    rows = rows_of([one, other])
    assert [row["valid"] for row in rows] == [True, True, False, False]
    assert "the same device as pi5" in rows[2]["why"][0]


def test_what_a_machine_calls_itself() -> None:
    nothing = {"hostname": "box", "board": None, "dmi": None, "cpu_model": None}
    assert board_of(nothing) == "box"
    assert board_of({**nothing, "cpu_model": "Intel N100"}) == "Intel N100"
    assert board_of({**nothing, "dmi": {"sys_vendor": "ASUS", "product_name": "PN42"}}) == "ASUS PN42"
