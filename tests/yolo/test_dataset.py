"""A data YAML names its pictures and boxes, and every mistake in it is said with its place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import NAMES, tiny_dataset
from toolchain.errors import DataError
from toolchain.yolo.dataset import Dataset, check_images, load_dataset, read_labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny_dataset(tmp_path / "set")


def yaml(data: Path, text: str) -> Path:
    data.write_text(text)
    return data


NAMED = "names: [red, green, blue]\n"


def test_splits_names_and_labels(data: Path) -> None:
    dataset = load_dataset(data, class_names=NAMES)
    assert {split: len(files) for split, files in dataset.splits.items()} == {"train": 3, "val": 4}
    assert dataset.names == NAMES
    assert dataset.root == data.parent
    image = dataset.images("val")[0]
    assert dataset.label_path(image) == data.parent / "labels/val/0.txt"
    labels = read_labels(dataset, "val")
    assert [len(rows) for rows in labels] == [3, 3, 3, 3]
    assert all(rows.dtype == np.float32 and rows.shape[1] == 5 for rows in labels)
    check_images(dataset, "val")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("train: images/train\nval: images/val\n", 4),
        ("path: .\ntrain: images/train\nval: images/val\n", 4),
        ("path: ROOT\ntrain: images/train\nval: [images/val, images/train]\n", 7),
        ("train: images/train\nvalidation: images/val\n", 4),
        ("train: ../images/train\nval: ../images/val\n", 4),  # as some exporters write it
        ("train: images/train\nval: list.txt\n", 2),
        ("train: images/train\nval: images/val/1.png\n", 1),
        ("train: images/train\nval: images/val\ntest: no/such/folder\n", 4),
    ],
)
def test_every_way_of_naming_pictures(data: Path, text: str, count: int) -> None:
    (data.parent / "list.txt").write_text("./images/val/1.png\n\nimages/val/0.png\nimages/val/notes.txt\n")
    (data.parent / "images/val/notes.txt").write_text("not a picture")
    dataset = load_dataset(yaml(data, text.replace("ROOT", str(data.parent)) + NAMED))
    assert len(dataset.images("val")) == count
    assert len(dataset.images("train")) == 3
    assert sum(map(len, read_labels(dataset, "val"))) == 3 * count


def test_pictures_are_sorted_and_counted_once(data: Path) -> None:
    dataset = load_dataset(yaml(data, "train: images/train\nval: [images/val, images/val]\n" + NAMED))
    assert [path.stem for path in dataset.images("val")] == ["0", "1", "2", "3"]


BAD_YAML = {
    "no names": ("train: images/train\nval: images/val\n", "names are missing"),
    "nc alone": ("train: images/train\nval: images/val\nnc: 3\n", "names are missing"),
    "nc differs": ("train: images/train\nval: images/val\nnc: 4\n" + NAMED, "nc and names disagree"),
    "gap": ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "without gaps"),
    "text id": ("train: images/train\nval: images/val\nnames: {a: b}\n", "whole numbers"),
    "wrong root": ("path: nowhere\ntrain: images/train\nval: images/val\n" + NAMED, "folder does not exist"),
    "wrong val": ("train: images/train\nval: images/vall\n" + NAMED, r"pictures of `val`"),
    "empty val": ("train: images/train\nval: labels\n" + NAMED, r"pictures of `val`"),
    "wrong in list": ("train: images/train\nval: [images/val, images/x]\n" + NAMED, "path of `val` does not exist"),
    "number": ("train: 3\nval: images/val\n" + NAMED, "`train` must be a path"),
    "archive": ("train: images/train\nval: data.yaml\n" + NAMED, "neither a folder"),
    "no split": (NAMED, "names no pictures"),
    "not yaml": ("train: [", "not valid YAML"),
    "not a mapping": ("- a\n", "not a mapping"),
    "tag": ("train: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
}


@pytest.mark.parametrize("kind", BAD_YAML)
def test_mistakes_are_said_with_file_and_key(data: Path, kind: str) -> None:
    text, said = BAD_YAML[kind]
    with pytest.raises(DataError, match=said) as raised:
        load_dataset(yaml(data, text))
    assert "data.yaml" in str(raised.value)


def test_a_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data YAML not found"):
        load_dataset(tmp_path / "none.yaml")


def test_wrong_paths_show_what_was_tried_and_nothing_is_downloaded(data: Path) -> None:
    ran = data.parent / "ran"
    text = f"train: images/train\nval: images/x\ndownload: |\n  open({str(ran)!r}, 'w')\n"
    with pytest.raises(DataError) as raised:
        load_dataset(yaml(data, text + NAMED))
    assert str(data.parent / "images/x") in str(raised.value)
    assert "`download` key is not run" in str(raised.value)
    assert not ran.exists()


def test_a_list_names_its_line(data: Path) -> None:
    (data.parent / "list.txt").write_text("images/val/0.png\nimages/val/9.png\n")
    with pytest.raises(DataError, match=r"list\.txt line 2"):
        load_dataset(yaml(data, "train: images/train\nval: list.txt\n" + NAMED))


def test_asking_for_a_split_that_is_not_there(data: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'") as raised:
        load_dataset(data).images("test")
    assert "train (3 images), val (4 images)" in str(raised.value)


def test_a_named_but_absent_test_split_fails_only_when_asked_for(data: Path) -> None:
    dataset = load_dataset(yaml(data, "train: images/train\nval: images/val\ntest: images/test\n" + NAMED))
    with pytest.raises(DataError, match=r"tried .*images/test"):
        read_labels(dataset, "test")


@pytest.mark.parametrize(
    ("names", "said"),
    [({0: "a"}, "are not the model's"), ({0: "green", 1: "red", 2: "blue"}, "another order")],
)
def test_classes_are_compared_with_the_models(data: Path, names: dict[int, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_dataset(data, class_names=names)


def test_renamed_classes_of_the_same_count_are_allowed(data: Path) -> None:
    assert load_dataset(data, class_names={0: "rot", 1: "gruen", 2: "blau"}).names == NAMES


def test_val_that_is_train_is_told(data: Path) -> None:
    assert not load_dataset(data).shares_images("train", "val")
    shared = load_dataset(yaml(data, "train: images/train\nval: [images/val, images/train/0.png]\n" + NAMED))
    assert shared.shares_images("train", "val")
    assert not shared.shares_images("train", "test")


# ----------------------------------------------------------------------------------------------------------------- labels


def write_label(dataset: Dataset, text: str) -> Path:
    path = dataset.label_path(dataset.images("val")[0])
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns"),
        ("3 0.5 0.5 0.1 0.1", r"class id 3 is not in 0\.\.2"),
        ("-1 0.5 0.5 0.1 0.1", "class id -1"),
        ("0.5 0.5 0.5 0.1 0.1", "class id 0.5"),
        ("red 0.5 0.5 0.1 0.1", "could not convert"),
        ("0 50 50 10 10", "outside 0..1"),
        ("0 nan 0.5 0.1 0.1", "outside 0..1"),
        ("0 0.5 0.5 -0.005 0.1", "negative width"),
        ("0 0.5 0.5 0.1 \xff", "could not convert"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(data: Path, row: str, said: str) -> None:
    dataset = load_dataset(data)
    path = write_label(dataset, f"0 0.5 0.5 0.1 0.1\n\n{row}\n")
    with pytest.raises(DataError, match=said) as raised:
        read_labels(dataset, "val")
    assert f"{path}:3:" in str(raised.value)
    assert len(read_labels(dataset, "train")) == 3


def test_many_bad_rows_are_counted_and_a_few_shown(data: Path) -> None:
    dataset = load_dataset(data)
    write_label(dataset, "9 0.5 0.5 0.1 0.1\n" * 12)
    with pytest.raises(DataError, match="12 label rows") as raised:
        read_labels(dataset, "val")
    assert "and 7 more" in str(raised.value)
    assert str(raised.value).count("class id 9") == 5


def test_polygons_become_boxes_and_repeated_rows_count_once(data: Path) -> None:
    dataset = load_dataset(data)
    write_label(dataset, "1 0.2 0.2 0.6 0.2 0.4 0.8\n1 0.2 0.2 0.6 0.2 0.4 0.8\n")
    np.testing.assert_allclose(read_labels(dataset, "val")[0], [[1, 0.4, 0.5, 0.4, 0.6]], rtol=1e-6)


def test_boxes_and_polygons_in_one_file_are_refused(data: Path) -> None:
    dataset = load_dataset(data)
    write_label(dataset, "1 0.2 0.2 0.6 0.2 0.4 0.8\n1 0.2 0.2 0.1 0.1\n")
    with pytest.raises(DataError, match="boxes and polygons"):
        read_labels(dataset, "val")


def test_no_label_file_means_no_object(data: Path) -> None:
    dataset = load_dataset(data)
    write_label(dataset, "").unlink()
    write_byte_order_mark = dataset.label_path(dataset.images("val")[1])
    write_byte_order_mark.write_bytes(b"\xef\xbb\xbf0 0.5 0.5 0.1 0.1\n")
    assert [rows.shape for rows in read_labels(dataset, "val")[:2]] == [(0, 5), (1, 5)]


unit = st.floats(0, 1, width=32)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.integers(0, 2), unit, unit, unit, unit), max_size=6, unique=True))
def test_what_is_written_is_read(data: Path, rows: list[tuple[float, ...]]) -> None:
    dataset = load_dataset(data)
    write_label(dataset, "\n".join(" ".join(map(repr, row)) for row in rows))
    expected = {tuple(np.float32(row)) for row in rows}
    assert {tuple(row) for row in read_labels(dataset, "val")[0]} == expected


# --------------------------------------------------------------------------------------------------------------- pictures


def test_damaged_pictures_are_counted_and_named(data: Path) -> None:
    dataset = load_dataset(data)
    first, second = dataset.images("val")[:2]
    first.write_bytes(b"")
    second.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="2 pictures of split 'val'") as raised:
        check_images(dataset, "val")
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    check_images(dataset, "train")


# ------------------------------------------------------------------------------------------------------------------- hash


def test_the_hash_does_not_depend_on_place_or_dates(tmp_path: Path) -> None:
    first, second = tiny_dataset(tmp_path / "a"), tiny_dataset(tmp_path / "deeper" / "b")
    assert load_dataset(first).sha256 == load_dataset(second).sha256


@pytest.mark.parametrize("change", ["label", "picture", "same size", "more", "yaml", "names"])
def test_the_hash_sees_every_change(data: Path, change: str) -> None:
    before, image = load_dataset(data).sha256, data.parent / "images/val/0.png"
    if change == "label":
        (data.parent / "labels/val/0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    elif change == "picture":
        cv2.imwrite(str(image), np.zeros((32, 32, 3), np.uint8))
    elif change == "same size":
        raw = bytearray(image.read_bytes())
        raw[len(raw) // 2] ^= 1
        image.write_bytes(raw)
    elif change == "more":
        (image.parent / "new.png").write_bytes(image.read_bytes())
    elif change == "yaml":
        data.write_text(data.read_text().replace("val: images/val", "val: [images/val]"))
    else:
        data.write_text(data.read_text().replace("red", "rot"))
    assert load_dataset(data).sha256 != before
