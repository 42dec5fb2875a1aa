"""Finished runs side by side, with every reason why their numbers may not be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from toolchain.measurement.record import read_records
from toolchain.report.summary import Summary, read_summary
from toolchain.report.tables import render_table
from toolchain.report.variant import Variant

RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Run:
    """One run folder: its summary and how many of its recorded results are fit for use."""

    name: str
    summary: Summary
    records: int
    invalid: list[str]


@dataclass(frozen=True)
class Comparison:
    """Rows of all runs, labelled by run where there are several, and what stands against comparing them."""

    variants: list[Variant]
    warnings: list[str]

    def table(self) -> Table:
        """The rows for a terminal."""
        return render_table(self.variants)

    def to_dict(self) -> dict[str, Any]:
        """JSON form for `--json`."""
        return {"variants": [variant.to_dict() for variant in self.variants], "warnings": self.warnings}


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read each run's `summary.json` and `records.jsonl`.

    Raises:
        RunFolderError: a folder holds no finished run, or a damaged summary.
        MeasurementError: a damaged record.
    """
    names = _names(folders)
    runs = [_read(name, folder) for name, folder in zip(names, folders, strict=True)]
    variants = [
        replace(variant, label=f"{run.name}: {variant.label}") if len(runs) > 1 else variant
        for run in runs
        for variant in run.summary.variants
    ]
    return Comparison(variants, _differences(runs) + _doubts(runs))


def _names(folders: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]


def _read(name: str, folder: Path) -> Run:
    records = read_records(folder / RECORDS)
    invalid = [f"{record.kind} of {record.subject}: {'; '.join(record.reasons)}" for record in records if not record.valid]
    return Run(name, read_summary(folder), len(records), invalid)


def _conditions(summary: Summary) -> dict[tuple[str, str], object]:
    """(condition, what it forbids comparing when it differs) -> value; None if the run does not say."""
    model, data, bench = summary.model, summary.data, summary.bench
    return {
        ("data", "mAP"): data and (data.sha256 or data.yaml),
        ("split", "mAP"): data and data.split,
        ("image size", "mAP, GMACs and latency"): model and model.imgsz,
        ("number of threads", "latency"): bench and bench.threads,
        ("provider", "latency"): bench and bench.provider,
        ("runtime version", "latency"): bench and bench.runtime_version,
    }


def _differences(runs: Sequence[Run]) -> list[str]:
    """What may not be compared between the runs, and why."""
    if len(runs) < 2:
        return []
    conditions = {run.name: _conditions(run.summary) for run in runs}
    texts = []
    for name, quantity in conditions[runs[0].name]:
        values = {run: found[name, quantity] for run, found in conditions.items()}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{run}: {'unknown' if value is None else value}" for run, value in values.items())
            texts.append(f"{quantity} cannot be compared, the {name} differs ({shown})")
    return [*texts, "each speed-up is against the dense engine of its own run; engines of two runs were not timed side by side"]


def _doubts(runs: Sequence[Run]) -> list[str]:
    """Results their own run calls unfit."""
    texts = []
    for run in runs:
        bench = run.summary.bench
        if bench is not None and bench.valid is False:
            texts.append(f"{run.name}: latency is not valid: {'; '.join(bench.reasons) or 'no reason recorded'}")
        texts += [f"{run.name}: invalid {text}" for text in run.invalid]
        if run.summary.data is not None and run.summary.data.shared_with_train:
            texts.append(
                f"{run.name}: {run.summary.data.shared_with_train} of the scored images were also trained on; mAP is too high"
            )
    return texts
