"""The benchmark on several devices at once: each in a folder of its own, a table across them, and what fails beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain import progress
from toolchain.device import fleet
from toolchain.device.manifest import attach
from toolchain.device.records import records_of
from toolchain.device.results import BenchResult
from toolchain.device.settings import HERE, On
from toolchain.errors import UsageError
from toolchain.report.fleet_table import rows_of
from toolchain.stage import write_json
from toolchain.verbs.engines import bench

FLEET = "fleet.json"


def bench_fleet(
    engines: Mapping[str, Path], out: Path, hosts: Sequence[str], *, on: On = HERE, **asked: Any
) -> tuple[dict[str, Any], Exception | None]:
    """`bench` on every host at once; one that fails does not hurt the others, and the same call goes on where each stopped.

    Writes OUT/HOST/ (what `bench` writes) and OUT/fleet.json, anew with every host that is done.

    Args:
        on: everything but the host.
        asked: what else `bench` takes; pictures for accuracy are prepared once, in OUT.

    Returns:
        the fleet (`devices`, one entry a host; `rows`, one a host and engine), and one error for all hosts that gave no result.
    """
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, Any]] = {}

    def work(host: str) -> BenchResult:
        return bench(engines, fleet.folder_of(out, host), on=replace(on, host=host), prepared=out, **asked)

    def keep(outcome: fleet.Outcome[BenchResult]) -> None:
        entry = outcome.to_json(outcome.value.to_json() if outcome.value else None)
        done[outcome.host] = {**entry, "folder": fleet.slug(outcome.host)}
        write_json(out / FLEET, summary())
        progress.note(f"{outcome.host}: {outcome.error or _in_a_line(outcome.value)}")

    def summary() -> dict[str, Any]:
        devices = [done[host] for host in hosts if host in done]
        return {"devices": devices, "rows": rows_of(devices)}

    outcomes = fleet.run_on(hosts, work, done=keep)
    return summary(), fleet.failed(outcomes)


def _in_a_line(result: BenchResult | None) -> str:
    """The medians, as soon as a host is done."""
    engines = result.engines.values() if result else ()
    medians = ", ".join(f"{one.label} {one.p50_ms:#.3g} ms" for one in engines if one.p50_ms is not None)
    return medians + ("" if result is None or result.valid else f" (not valid: {'; '.join(result.reasons)})")


def bundles_of(engines: Mapping[str, Path]) -> dict[str, Path]:
    """Those of the engines that are bundles.

    Raises:
        UsageError: none is.
    """
    bundles = {label: path for label, path in engines.items() if path.is_dir()}
    if not bundles:
        got = ", ".join(map(str, engines.values()))
        raise UsageError("there is no bundle to keep the results in", got=got, fix="toolchain build makes one")
    return bundles


def attach_results(bundles: Mapping[str, Path], results: Sequence[Mapping[str, Any]]) -> None:
    """Keep what may be used of these benchmarks (`BenchResult.to_json()` of each device) in the bundles that were measured."""
    for label, bundle in bundles.items():
        found = [record for result in results for record in records_of(result, label)]
        attach(bundle, [record for record in found if record.valid and record.value is not None])
