"""What a bundle says of itself: every file by its hash, what the engine was built for, what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.device.messages import Count, Sha256
from toolchain.errors import MeasurementError, RunFolderError
from toolchain.measurement.record import Record
from toolchain.stage import file_sha256, read_json, write_json

FORMAT = 2
MANIFEST = "manifest.json"
SOURCE = "engine.onnx"  # the graph, and the engine too where the runtime reads graphs
LABELS, PROCESSING, INFER = "labels.txt", "processing.json", "infer.py"
SAMPLE, EXPECTED = "sample.ppm", "expected.json"
ALWAYS = (LABELS, PROCESSING, INFER, SAMPLE, EXPECTED)
AGAIN = "copy the bundle again, or build it again"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(_Strict):
    sha256: Sha256
    size_bytes: Count


class RuntimeUsed(_Strict):
    """What loaded the engine when the bundle was built."""

    name: str
    version: str
    provider: str
    threads: Annotated[int, Field(ge=1)]
    options: dict[str, Any]


class Conversion(_Strict):
    """How a runtime's own engine is built of the source, on the device alone.

    Attributes:
        provider: with its options, as the build is asked for.
        order: the rest of what is asked for, see toolchain/agent/trt/ladder.py.
        calibration: file with INT8 ranges, for a graph without Q/DQ.
        engine, about: what was built on the machine of the bundle, and what says where that is at home; None: it stayed there.
    """

    provider: str
    order: dict[str, Any]
    calibration: FileName | None
    engine: FileName | None
    about: FileName | None

    def files(self) -> list[str]:
        """Those of the bundle that belong to it."""
        return [name for name in (self.calibration, self.engine, self.about) if name is not None]


class Manifest(_Strict):
    """One bundle.

    Attributes:
        engine: its file; `source` is the ONNX graph it was made from, the same file where the runtime loads ONNX itself.
        conversion: only where each device builds its own engine of the source.
        files: every file but the manifest.
        device: probe of the machine it was built and tried on.
        tried: times and shapes of that trial.
        versions: tools that made it.
        measurements: records (see toolchain.measurement.record) of this very engine.
        content_sha256: over everything above, so that a changed manifest shows too.
    """

    format: Literal[2]
    engine: FileName
    source: FileName
    conversion: Conversion | None = None
    files: dict[FileName, Entry]
    target: str | None
    precision: str
    runtime: RuntimeUsed
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    device: dict[str, Any]
    tried: dict[str, Any]
    versions: dict[str, str | None]
    measurements: list[dict[str, Any]]
    content_sha256: Sha256

    def to_json(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return self.model_dump()


def _content_sha256(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def entries(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Hash and size of these files."""
    return {name: {"sha256": file_sha256(folder / name), "size_bytes": (folder / name).stat().st_size} for name in names}


def write_manifest(folder: Path, values: Mapping[str, Any]) -> Manifest:
    """Complete, check and write it in one step."""
    data = json.loads(json.dumps({"measurements": [], "conversion": None, **values, "format": FORMAT}, default=str))
    manifest = Manifest.model_validate({**data, "content_sha256": _content_sha256(data)})
    write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def verify(bundle: Path) -> Manifest:
    """Check the manifest, and every file of the bundle against it.

    Raises:
        RunFolderError: no manifest, another format, a file missing or changed.
    """
    data = read_json(bundle / MANIFEST) if (bundle / MANIFEST).is_file() else None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise RunFolderError("not a bundle of this version", got=str(bundle / MANIFEST), fix="build it again: toolchain build")
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = f"{bundle / MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RunFolderError("the manifest is not what it must be", got=got, fix=AGAIN) from error
    if manifest.content_sha256 != _content_sha256(data):
        raise RunFolderError("the manifest was changed", got=str(bundle / MANIFEST), fix=AGAIN)
    for name in (manifest.engine, manifest.source, *ALWAYS, *(manifest.conversion.files() if manifest.conversion else ())):
        if name not in manifest.files:
            raise RunFolderError("the manifest does not list a file that every bundle has", got=name, fix=AGAIN)
    for name, expected in manifest.files.items():
        path = bundle / name
        if not path.is_file():
            raise RunFolderError("a file of the bundle is missing", got=str(path), fix=AGAIN)
        if (got := file_sha256(path)) != expected.sha256:
            raise RunFolderError("a file of the bundle was changed", got=f"{path}: sha256 {got}", fix=AGAIN)
    return manifest


def engine_of(bundle: Path) -> Path:
    """The engine's file, after everything was checked."""
    return bundle / verify(bundle).engine


def attach(bundle: Path, records: Sequence[Record]) -> Manifest:
    """Keep measurements of the bundle's engine in its manifest; one of the same kind and machine takes the place of the older.

    Raises:
        MeasurementError: a record of another engine, or one that must not be used.
        RunFolderError: the bundle is damaged.
    """
    manifest = verify(bundle)
    for record in records:
        if record.subject_sha256 != manifest.files[manifest.engine].sha256:
            raise MeasurementError("a measurement of another engine", got=f"{record.kind} of {record.subject_sha256[:16]}")
        if not record.valid or record.value is None:
            raise MeasurementError("a measurement that must not be used", got="; ".join(record.reasons), fix="measure again")
    kept = {_key(data): data for data in (*manifest.measurements, *(record.to_json() for record in records))}
    return write_manifest(bundle, {**manifest.to_json(), "measurements": list(kept.values())})


def _key(record: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Boards fresh from the same card have one name: what the host was called when it was measured tells them apart."""
    called = record["extra"].get("settings", {}).get("host")
    return record["kind"], record["unit"], record["device"].get("hostname"), called
