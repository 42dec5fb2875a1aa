"""run.toml: what is wrong is named with its file, key, what was got and what is expected; flags win over the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolchain.cli import app
from toolchain.config import RunConfig, load_config, read_toml
from toolchain.errors import ConfigError

NEEDED = 'model = "a.pt"\ndata = "b.yaml"\n'
FLAGS: dict[str, Any] = {"model": Path("a.pt"), "data": Path("b.yaml")}


def config(tmp_path: Path, text: str, **flags: Any) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, {key.replace("__", "."): value for key, value in flags.items()})


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, text)
    message = str(raised.value)
    assert str(tmp_path / "run.toml") in message
    return message


def test_flags_alone_are_enough() -> None:
    made = load_config(None, FLAGS)
    assert made.model == Path("a.pt")
    assert (made.imgsz, made.prune.ratio, made.train.epochs, made.int8.max_drop) == (640, 0.5, 60, 0.01)


def test_flags_win_over_the_file_and_none_does_not(tmp_path: Path) -> None:
    text = NEEDED + "imgsz = 320\n[prune]\nratio = 0.3\nsteps = 2\n"
    made = config(tmp_path, text, imgsz=None, prune__ratio=0.6, train__epochs=0, out=tmp_path / "x")
    assert (made.imgsz, made.prune.ratio, made.prune.steps, made.train.epochs) == (320, 0.6, 2, 0)
    assert made.out == tmp_path / "x"


def test_paths_are_relative_to_the_file_and_flags_to_the_caller(tmp_path: Path) -> None:
    made = config(tmp_path, NEEDED + 'out = "runs/one"\n')
    assert (made.model, made.data, made.out) == (tmp_path / "a.pt", tmp_path / "b.yaml", tmp_path / "runs" / "one")
    assert config(tmp_path, NEEDED, model=Path("here.pt")).model == Path("here.pt")


def test_absolute_and_home_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    made = config(tmp_path, 'model = "/models/a.pt"\ndata = "~/b.yaml"\n')
    assert (made.model, made.data) == (Path("/models/a.pt"), Path("/home/someone/b.yaml"))


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("imgszz = 320\n", "imgszz", "imgsz"),
        ("[prune]\ncriterium = 'l1'\n", "prune.criterium", "criterion"),
        ("[train.distill]\nscore = 1\n", "train.distill.score", "scores"),
        ("[prun]\nratio = 0.5\n", "prun", "prune"),
        ("[bench]\nround = 3\n", "bench.round", "rounds"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, key: str, near: str) -> None:
    assert f"unknown key {key!r}, did you mean {near!r}?" in refused(tmp_path, NEEDED + text)


def test_an_unknown_key_like_no_other_is_only_named(tmp_path: Path) -> None:
    message = refused(tmp_path, NEEDED + "zzzzzz = 1\n")
    assert "unknown key 'zzzzzz'" in message
    assert "did you mean" not in message


def test_missing_keys_say_where_to_give_them(tmp_path: Path) -> None:
    assert "'data' is missing (give it in the file or as --data)" in refused(tmp_path, 'model = "a.pt"\n')
    with pytest.raises(ConfigError, match=r"command line does not describe a run\n  got: 'model' is missing"):
        load_config(None, {})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("imgsz = 'big'\n", ["imgsz = 'big'", "integer"]),
        ("imgsz = 16\n", ["imgsz = 16", "32"]),
        ("split = 'all'\n", ["split = 'all'", "'val'"]),
        ("[prune]\nratio = 1.0\n", ["prune.ratio = 1.0", "less than 1"]),
        ("[prune]\nratio = nan\n", ["prune.ratio = nan"]),
        ("[prune]\nsteps = 0\n", ["prune.steps = 0", "1"]),
        ("[prune]\nalign = 0\n", ["prune.align = 0"]),
        ("[prune]\nlayers = 0.5\n", ["prune.layers = 0.5", "dictionary"]),
        ("[prune.layers]\n'model.3' = 'half'\n", ["prune.layers.model.3 = 'half'", "number"]),
        ("[train]\nlr0 = 0\n", ["train.lr0 = 0", "greater than 0"]),
        ("[train]\nepochs = -1\n", ["train.epochs = -1"]),
        ("[train]\ncos_lr = 'perhaps'\n", ["train.cos_lr = 'perhaps'", "boolean"]),
        ("[int8]\nkeep_float = '/model.9/*'\n", ["int8.keep_float", "list"]),
        ("[bench]\nthreads = 0\n", ["bench.threads = 0"]),
        ("model = 3\ndata = 'b.yaml'\n", ["model = 3", "path"]),
        ("prune = 'flops'\n", ["prune = 'flops'", "dictionary"]),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_expected(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refused(tmp_path, text if text.startswith("model") else NEEDED + text)
    assert all(part in message for part in parts), message


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, NEEDED + "imgsz = 'x'\nsede = 1\n[prune]\nratio = 2\n")
    assert all(part in message for part in ("imgsz", "did you mean 'seed'", "prune.ratio"))


def test_a_flag_into_something_that_is_no_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prune = 3\n  try: \[prune\]"):
        config(tmp_path, NEEDED + "prune = 3\n", prune__ratio=0.5)


@pytest.mark.parametrize("content", [b"model = \n", b"\xff\xfe", b"[a]\n[a]\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"not TOML\n  got: .*run\.toml: "):
        read_toml(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the file"):
            load_config(path, FLAGS)


def test_the_result_cannot_be_changed_and_survives_json() -> None:
    made = load_config(None, FLAGS)
    with pytest.raises(ValueError, match="frozen"):
        made.imgsz = 1
    assert RunConfig.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(("words", "mixed"), [([], False), (["--mixed"], True)])
def test_mixed_precision_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], mixed: bool
) -> None:
    """Left out, the file's word stands."""
    asked = []
    monkeypatch.setattr("toolchain.pipeline.run", lambda settings, command: asked.append(settings))
    monkeypatch.setattr("toolchain.cli.jobs.show", lambda *_: None)
    for said, wanted in (("", mixed), ("[int8]\nmixed = true\n", True)):
        (tmp_path / "run.toml").write_text(f'model = "m.pt"\ndata = "d.yaml"\n{said}')
        CliRunner().invoke(app, ["run", str(tmp_path / "run.toml"), *words], catch_exceptions=False)
        assert asked[-1].int8.mixed == wanted
