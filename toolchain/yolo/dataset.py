"""Detection data sets described by an ultralytics data YAML: which pictures, which boxes, and whether they are sound."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolchain.errors import DataError
from toolchain.yolo.labels import check_images as check_images
from toolchain.yolo.labels import read_labels as read_labels
from toolchain.yolo.model_yaml import read_yaml

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
SHOWN = 5  # names printed in full
SAMPLE_BYTES = 2048


@dataclass(frozen=True)
class Dataset:
    """A data YAML with its pictures found.

    Attributes:
        path: the YAML.
        root: the folder its paths are relative to.
        names: class id -> name, ids 0..n-1.
        splits: split -> pictures, sorted.
        sha256: changes when the YAML, the list of pictures, a picture or a label changes; not with dates or location.
        missing: split named in the YAML whose pictures are not there -> what was tried.
    """

    path: Path
    root: Path
    names: dict[int, str]
    splits: dict[str, list[Path]]
    sha256: str
    missing: dict[str, str] = field(default_factory=dict)

    def images(self, split: str) -> list[Path]:
        """Pictures of a split.

        Raises:
            DataError: the data set has no such split; no other one is used instead.
        """
        if split not in self.splits:
            there = ", ".join(f"{name} ({len(files)} images)" for name, files in self.splits.items())
            why = f"; {self.missing[split]}" if split in self.missing else ""
            raise DataError(f"the data set has no split {split!r}", got=f"{self.path}{why}", fix=f"there is: {there}")
        return self.splits[split]

    def only(self, indices: Sequence[int]) -> Dataset:
        """Some of its training pictures alone, as a data set with a hash of its own."""
        digest = hashlib.sha256(f"{self.sha256} {list(indices)}".encode()).hexdigest()
        images = self.images("train")
        return replace(self, splits={"train": [images[i] for i in indices]}, sha256=digest)

    def label_path(self, image: Path) -> Path:
        """Where the boxes of a picture are: its path with the last folder `images` read as `labels`, ending in .txt."""
        parts = list(image.parts)
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] == "images":
                parts[index] = "labels"
                break
        return Path(*parts).with_suffix(".txt")

    def with_split(self, name: str, images: Sequence[Path]) -> Dataset:
        """The same data set with one more split, of pictures it has."""
        files = sorted(images)
        listed = "\n".join(os.path.relpath(file, self.root) for file in files)
        sha256 = hashlib.sha256(f"{self.sha256}\n{name}\n{listed}".encode()).hexdigest()
        return replace(self, splits={**self.splits, name: files}, sha256=sha256)

    def shares_images(self, first: str, second: str) -> bool:
        """Whether any picture is in both splits, so that one says nothing new about the other."""
        return bool({p.resolve() for p in self.splits.get(first, [])} & {p.resolve() for p in self.splits.get(second, [])})


def load_dataset(yaml_path: Path, *, class_names: dict[int, str] | None = None) -> Dataset:
    """Read a data YAML and find its pictures. Nothing is downloaded; a `download:` key is ignored.

    Args:
        yaml_path: keys `train`, `val`, `test` (folder, list file `.txt`, or a list of those), `names`, optional `path`, `nc`.
        class_names: names of the model's classes, to be compared.

    Raises:
        DataError: naming the file and key: missing, no names, no pictures, or classes unlike the model's.
    """
    path = Path(yaml_path)
    config = read_yaml(path, "data YAML")
    names = _names(config, path)
    if class_names is not None:
        _compare_names(names, class_names, path)
    root = _root(config, path)
    splits: dict[str, list[Path]] = {}
    missing: dict[str, str] = {}
    for split in SPLITS:
        key = "validation" if split == "val" and "val" not in config else split
        if not config.get(key):
            continue
        tried: list[str] = []
        images = _find_images(config[key], root, path, key, tried)
        if images:
            splits[split] = images
        else:
            missing[split] = f"no images for `{key}: {config[key]}`, tried " + ", ".join(tried)
    for split in ("train", "val"):
        if split in missing:
            fix = "correct `path` or the split's own path" + (" (the `download` key is not run)" if "download" in config else "")
            raise DataError(f"the pictures of `{split}` are not there", got=f"{path}: {missing[split]}", fix=fix)
    if not splits:
        raise DataError(
            "the data YAML names no pictures", got=f"{path}: keys {sorted(map(str, config))}", fix="add `train:`, `val:`"
        )
    found = Dataset(path, root, names, splits, "", missing)
    return Dataset(path, root, names, splits, _digest(found), missing)


def _names(config: dict[str, Any], path: Path) -> dict[int, str]:
    raw = config.get("names")
    if not raw or not isinstance(raw, list | dict):
        fix = "add `names: [person, car]`, in the order of the label files' ids"
        raise DataError("class names are missing", got=f"{path}: names: {raw}", fix=fix)
    try:
        names = {int(key): str(value) for key, value in (raw.items() if isinstance(raw, dict) else enumerate(raw))}
    except (TypeError, ValueError) as error:
        raise DataError(
            "class ids must be whole numbers", got=f"{path}: names: {error}", fix="write `names: {0: person}`"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise DataError(
            "class ids must run from 0 without gaps", got=f"{path}: names: {sorted(names)[:12]}", fix="number them anew"
        )
    if config.get("nc") is not None and config["nc"] != len(names):
        raise DataError("nc and names disagree", got=f"{path}: nc: {config['nc']}, {len(names)} names", fix="correct one of them")
    return dict(sorted(names.items()))


def _compare_names(names: dict[int, str], model: dict[int, str], path: Path) -> None:
    if len(names) != len(model):
        got = f"{path}: {len(names)} classes ({_some(names)}); model: {len(model)} ({_some(model)})"
        raise DataError("the data set's classes are not the model's", got=got, fix="use the data the model was trained on")
    if set(names.values()) == set(model.values()) and names != model:
        got = f"{path}: {_some(names)}; model: {_some(model)}"
        raise DataError(
            "the classes have another order than the model's", got=got, fix="put `names` and the label ids in its order"
        )


def _some(names: dict[int, str]) -> str:
    return ", ".join(list(names.values())[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _root(config: dict[str, Any], path: Path) -> Path:
    """The folder of `path:`, itself relative to the YAML's folder (then to the working folder)."""
    home = path.resolve().parent
    if not config.get("path"):
        return home
    tried = [home / str(config["path"]), Path.cwd() / str(config["path"])]
    for folder in tried:
        if folder.is_dir():
            return folder.resolve()
    got = f"{path}: path: {config['path']}, tried " + ", ".join(dict.fromkeys(map(str, tried)))
    raise DataError("the data set's folder does not exist", got=got, fix="correct `path`, or remove it to use the YAML's folder")


def _find_images(entry: object, root: Path, yaml_path: Path, key: str, tried: list[str]) -> list[Path]:
    """Pictures under a folder, in a list file, or in several of them; every place looked at is added to `tried`."""
    if not isinstance(entry, str | list):
        raise DataError(f"`{key}` must be a path or a list of paths", got=f"{yaml_path}: {key}: {entry!r}")
    images: set[Path] = set()
    for item in entry if isinstance(entry, list) else [entry]:
        places = [root / str(item)]
        if str(item).startswith("../"):  # as some exporters write it, meant from inside the data set's folder
            places.append(root / str(item)[3:])
        place = next((candidate for candidate in places if candidate.exists()), None)
        tried += map(str, places)
        if place is None:
            if isinstance(entry, list):
                raise DataError(f"a path of `{key}` does not exist", got=f"{yaml_path}: tried {', '.join(map(str, places))}")
            return []
        images |= set(_expand(place, root))
    return sorted(images)


def _expand(place: Path, root: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (file for file in place.resolve().rglob("*.*") if file.suffix.lower() in IMAGE_SUFFIXES)
    elif place.suffix.lower() in IMAGE_SUFFIXES:
        yield place.resolve()
    elif place.suffix.lower() != ".txt":
        raise DataError("neither a folder, a picture nor a .txt list", got=place, fix="unpack archives and name the folder")
    else:
        for number, line in enumerate(place.read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip():
                continue
            file = next((base / line.strip() for base in (place.parent, root) if (base / line.strip()).is_file()), None)
            if file is None:
                tried = f"{place.parent / line.strip()}, {root / line.strip()}"
                raise DataError(
                    "a listed picture does not exist", got=f"{place} line {number}: tried {tried}", fix="correct the list"
                )
            if file.suffix.lower() in IMAGE_SUFFIXES:
                yield Path(os.path.normpath(file.absolute()))


def _digest(dataset: Dataset) -> str:
    """Labels by content; pictures by size and three samples, since reading them all would take minutes on large sets."""
    digest = hashlib.sha256(dataset.path.read_bytes())
    for split, images in dataset.splits.items():
        digest.update(f"\n{split} {len(images)}\n".encode())
        for image in images:
            label = dataset.label_path(image)
            digest.update(os.path.relpath(image, dataset.root).encode() + b"\0" + _sample(image))
            digest.update(hashlib.sha256(label.read_bytes()).digest() if label.is_file() else b"-")
    return digest.hexdigest()


def _sample(image: Path) -> bytes:
    size = image.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with image.open("rb") as stream:
        for start in (0, max(size // 2 - SAMPLE_BYTES // 2, 0), max(size - SAMPLE_BYTES, 0)):
            stream.seek(start)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.digest()
