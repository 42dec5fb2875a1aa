"""The comparison in a terminal: readable at 80 columns, and a gap is a reason, never a 0."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from toolchain.errors import MeasurementError, RunFolderError
from toolchain.report.compare import compare_runs
from toolchain.report.tables import render_table
from toolchain.report.variant import Variant

DENSE = Variant("dense", 12_230_000, 3_011_000, 0.55, 0.982, 0.894, 8.51, (8.44, 8.6), 1.0)
PRUNED = Variant("pruned", 3_100_000, 790_793, 0.15, 0.97, 0.85, 3.12, (3.05, 3.2), 2.73, (2.6, 2.8))
INT8 = Variant("pruned + INT8", 1_010_000, 790_793, 0.15, why={"latency_ms": "the board went away", "map50_95": "no labels"})


def text_of(table: Table, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_every_value_is_whole_within_the_width(width: int) -> None:
    text = text_of(render_table([DENSE, PRUNED, INT8]), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for value in ("12.2", "3.01", "0.55", "0.982", "0.894", "8.51", "8.44–8.60", "2.73×", "2.60–2.80×", "pruned + INT8", "1.01"):
        assert value in text
    assert "…" not in text


def test_a_missing_value_is_a_dash_with_its_reason() -> None:
    text = text_of(render_table([DENSE, INT8]), 120)
    row = next(line for line in text.splitlines() if line.strip().startswith("pruned + INT8"))
    assert row.split()[-4:] == ["–¹", "–¹", "–²", "–²"]  # two mAPs, then latency and the speed-up derived from it
    notes = " ".join(text.split())
    assert "¹ pruned + INT8: mAP50, mAP50-95 not measured: no labels" in notes
    assert "² pruned + INT8: latency, speed-up not measured: the board went away" in notes
    assert " 0.000" not in text


def test_a_missing_value_without_a_reason_says_so() -> None:
    assert "not measured: no reason recorded" in " ".join(text_of(render_table([Variant("x")]), 120).split())


def test_rows_that_lack_the_same_share_a_note() -> None:
    text = text_of(render_table([Variant("a", why={"size_bytes": "n"}), Variant("b", why={"size_bytes": "n"})]), 120)
    assert text.count("size not measured: n") == 1
    assert "a, b: size" in text


def test_energy_gets_a_column_only_where_there_is_one() -> None:
    assert "Energy" not in text_of(render_table([DENSE]))
    assert "44.0" in text_of(render_table([DENSE, Variant("metered", energy_mj=44)]), 120)


def test_a_label_is_text_and_not_markup() -> None:
    assert "[red]x[/red]" in text_of(render_table([Variant("[red]x[/red]", 1)]), 120)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ms": 0.0},
        {"latency_ms": float("nan")},
        {"size_bytes": -1},
        {"map50": 1.2},
        {"latency_ms": 5.0, "latency_interval_ms": (5.1, 6.0)},
        {"speedup_interval": (1.0, 2.0)},
    ],
)
def test_values_no_measurement_gives_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError):
        Variant("x", **wrong)


def test_a_variant_survives_json() -> None:
    back = Variant(**json.loads(json.dumps(PRUNED.to_dict())))
    assert back.to_dict() == {**PRUNED.to_dict(), "latency_interval_ms": [3.05, 3.2], "speedup_interval": [2.6, 2.8]}
    assert text_of(render_table([back])) == text_of(render_table([PRUNED]))


def run_folder(folder: Path, summary: dict[str, Any], records: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    if records:
        (folder / "records.jsonl").write_text(records)
    return folder


def test_one_run_compares_its_variants(tmp_path: Path, summary: dict[str, Any]) -> None:
    comparison = compare_runs([run_folder(tmp_path / "a", summary)])
    assert [variant.label for variant in comparison.variants] == ["dense", "pruned + INT8"]
    assert comparison.warnings == []
    assert json.loads(json.dumps(comparison.to_dict()))["variants"][1]["speedup"] == 3.0


def test_runs_under_other_conditions_are_called_incomparable(tmp_path: Path, summary: dict[str, Any]) -> None:
    other = json.loads(json.dumps(summary))
    other["data"]["split"], other["bench"]["threads"] = "val", 4
    comparison = compare_runs([run_folder(tmp_path / "a", summary), run_folder(tmp_path / "b", other)])
    assert [variant.label for variant in comparison.variants] == [f"{r}: {v}" for r in "ab" for v in ("dense", "pruned + INT8")]
    warnings = "\n".join(comparison.warnings)
    assert "mAP cannot be compared, the split differs (a: test, b: val)" in warnings
    assert "latency cannot be compared, the number of threads differs (a: 2, b: 4)" in warnings
    assert "provider" not in warnings
    assert "b: pruned" in text_of(comparison.table())


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path, summary: dict[str, Any]) -> None:
    folders = [run_folder(tmp_path / parent / "run", summary) for parent in ("x", "y")]
    assert {variant.label.split(":")[0] for variant in compare_runs(folders).variants} == {"x/run", "y/run"}


def test_invalid_results_are_named(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["bench"] |= {"valid": False, "reasons": ["the A/A control does not hold 1"]}
    summary["data"]["shared_with_train"] = 7
    record = {
        "kind": "latency", "subject": "pruned", "subject_sha256": "0" * 64, "device": {}, "value": None, "unit": "ms",
        "valid": False, "reasons": ["throttled"],
    }  # fmt: skip
    warnings = "\n".join(compare_runs([run_folder(tmp_path / "a", summary, json.dumps(record) + "\n")]).warnings)
    assert "the A/A control does not hold 1" in warnings
    assert "invalid latency of pruned: throttled" in warnings
    assert "7 of the scored images were also trained on" in warnings


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a finished run"):
        compare_runs([tmp_path])
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot read"):
        compare_runs([tmp_path])


def test_a_misspelt_key_is_refused(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["model"]["imgsize"] = 160
    with pytest.raises(RunFolderError, match=r"model\.imgsize"):
        compare_runs([run_folder(tmp_path / "a", summary)])
