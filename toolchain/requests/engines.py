"""What is built, run and measured: checks of the values a user typed for engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.device.settings import USUAL
from toolchain.errors import MeasurementError, UsageError
from toolchain.measurement.stats import MIN_ROUNDS

if TYPE_CHECKING:
    from toolchain.device.energy_request import EnergyRequest


def labelled(engines: Sequence[str]) -> dict[str, Path]:
    """LABEL=PATH or PATH -> label -> path; a bare path is labelled by its name.

    Raises:
        UsageError: two engines with one label.
    """
    found: dict[str, Path] = {}
    for entry in engines:
        label, sign, path = entry.partition("=")
        name, file = (label, Path(path)) if sign else (Path(entry).stem, Path(entry))
        if name in found:
            raise UsageError("two files with the same label", got=name, fix="LABEL=PATH")
        found[name] = file
    return found


def runtimes_of(names: Sequence[str], provider: str, *, attach: bool) -> tuple[str, Sequence[str]]:
    """Flags of a benchmark -> its one runtime, and, where they are several, all of them ("all": those the device has).

    Raises:
        UsageError: several runtimes and what goes with one only.
    """
    if len(names) == 1 and names[0] != "all":
        return names[0], ()
    if provider or attach:
        flag = "--provider" if provider else "--attach"
        raise UsageError("several runtimes are asked for, and what goes with one", got=flag, fix="one --runtime")
    return USUAL, names


def as_built(engines: Iterable[Path], runtime: str, provider: str) -> tuple[str, str]:
    """Runtime and provider asked for; where none was, those that the bundles among the engines were built for.

    Returns:
        two empty words where nothing says: the target's default it is then.

    Raises:
        UsageError: bundles for several runtimes, and none was asked for.
        RunFolderError: a damaged bundle.
    """
    from toolchain.device.manifest import verify

    if runtime:
        return runtime, provider
    found = {}
    for bundle in (path for path in engines if path.is_dir()):
        manifest = verify(bundle)
        own = manifest.conversion.provider if manifest.conversion else manifest.runtime.provider
        found[manifest.runtime.name, own] = bundle
    if len({name for name, _ in found}) > 1 or (len(found) > 1 and not provider):
        got = "; ".join(f"{bundle} for {name} ({own})" for (name, own), bundle in found.items())
        raise UsageError("bundles built for several runtimes or providers", got=got, fix="--runtime NAME, or one after the other")
    (name, own), *_ = [*found, ("", "")]
    return name, provider or own


def calibration(file: Path | None, runtimes: Sequence[str], provider: str) -> Path | None:
    """Flag of TensorRT's implicit INT8.

    Raises:
        UsageError: another runtime or precision, which would not read it, or no such file.
    """
    if file is None:
        return None
    if list(runtimes) != ["tensorrt"] or "precision=int8" not in provider.partition(":")[2].split(","):
        got = f"--runtime {' '.join(runtimes)} --provider {provider or '(the usual)'}"
        fix = "--runtime tensorrt --provider gpu:precision=int8; elsewhere INT8 is in the graph: toolchain quantize"
        raise UsageError("--calibration is for TensorRT's implicit INT8 alone", got=got, fix=fix)
    if not file.is_file():
        raise UsageError("the calibration's file does not exist", got=file, fix="toolchain quantize --trt-cache FILE writes one")
    return file


def bench_request(
    *, profile: str, rounds: int | None, runs: int | None, end_to_end: bool, energy: EnergyRequest | None, power_mode: str | None,
    pin_clocks: bool, keep_unstable: bool, accuracy: bool, data: Path | None, cool_down: float | None,
    start_temperature: float | None, rate_hz: float | None, export_times: bool, trtexec: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Flags -> what `verbs.bench` is asked beside engines and device.

    Raises:
        UsageError: accuracy without a data set, or a value out of range.
    """
    from toolchain.device.bench import Extras
    from toolchain.device.conditions import Conditions
    from toolchain.device.pace import PACES, pace_of

    if accuracy and data is None:
        raise UsageError("accuracy needs a data set", fix="--data DATA.yaml")
    if cool_down is None and start_temperature is not None:
        cool_down = PACES["report"].cool_down_s
    return {
        "pace": pace_of(profile, rounds=rounds, runs=runs, end_to_end=end_to_end or None, cool_down_s=cool_down),
        "extras": Extras(energy=energy, rate_hz=rate_hz, export_times=export_times, trtexec=trtexec),
        "conditions": Conditions(power_mode, pin_clocks, keep_unstable, start_temperature),
        "accuracy": accuracy,
        "data": data,
    }


def energy_request(
    profile: str, meter: str | None, meter_scope: Any, repeats: int, meter_error_percent: float | None = None,
    meter_error_w: float | None = None,
) -> EnergyRequest:  # fmt: skip
    """Flags -> how energy is measured: as long as a report is, or in the shorter phases of a search."""
    from toolchain.device.energy_request import EnergyRequest

    if meter_scope not in ("ac_wall", "dc_input"):
        raise UsageError("not what an external meter can see", got=meter_scope, fix="ac_wall or dc_input")
    return EnergyRequest(
        "report" if profile == "report" else "search", meter, meter_scope, repeats, meter_error_percent=meter_error_percent,
        meter_error_w=meter_error_w,
    )  # fmt: skip


def check_usable(bench: Mapping[str, Any]) -> None:
    """Raises: MeasurementError for a benchmark whose numbers must not be used, unless they were to be kept all the same."""
    if not bench["valid"] and not bench["conditions"]["keep_unstable"]:
        fix = "fix the clocks, cool the device, end other work there (toolchain doctor HOST); --keep-unstable records it, marked"
        fix = f"take at least {MIN_ROUNDS} rounds" if bench["rounds"] < MIN_ROUNDS else fix
        raise MeasurementError("the benchmark must not be used", got="; ".join(bench["reasons"]), fix=fix)
