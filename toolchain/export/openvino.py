"""OpenVINO's own pair of files as an engine: model.xml and the model.bin beside it travel as one file, so one hash covers both.

The file is an archive, stored and without dates: model.xml, model.bin, and about.json with the hash of each. The agent's
rt_openvino.py reads it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import yaml

from toolchain.errors import ExportError
from toolchain.stage import file_sha256

FORMAT = 1
SUFFIX = ".openvino"
XML = ".xml"
NAMES = "metadata.yaml"  # ultralytics writes it beside the pair


def pack(model: Path, out: Path) -> Path:
    """Write `out`, an engine of MODEL.xml and MODEL.bin.

    Raises:
        ExportError: the .bin is missing, or the .xml is not OpenVINO's.
    """
    weights = model.with_suffix(".bin")
    if not weights.is_file():
        raise ExportError(
            "OpenVINO's weights are not beside the graph", got=f"{model}: no {weights.name}", fix=f"copy {weights.name} there too"
        )
    _root(model)
    about = {"format": FORMAT, "xml_sha256": file_sha256(model), "bin_sha256": file_sha256(weights)}
    partial = out.with_name(f".{out.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("about.json"), json.dumps(about, sort_keys=True))
        for name, path in (("model.xml", model), ("model.bin", weights)):
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
    partial.replace(out)
    return out


def class_names(model: Path) -> list[str]:
    """By class id, from metadata.yaml beside MODEL.xml.

    Raises:
        ExportError: there is none, or it does not say.
    """
    try:
        names = yaml.safe_load((model.parent / NAMES).read_text(encoding="utf-8"))["names"]
        return [str(names[index]) for index in range(len(names))]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        fix = f"put {NAMES} beside it, with a key `names`: {{0: cat, 1: dog}}"
        raise ExportError("the pair does not name its classes", got=f"{model.parent / NAMES}: {error}", fix=fix) from error


def _root(model: Path) -> None:
    try:
        with model.open("rb") as stream:
            _, root = next(iter(ElementTree.iterparse(stream, events=("start",))))
    except (ElementTree.ParseError, StopIteration) as error:
        raise ExportError("not OpenVINO's model.xml", got=f"{model}: {error}") from error
    if root.tag != "net":
        raise ExportError("not OpenVINO's model.xml", got=f"{model}: <{root.tag}>, expected <net>")
