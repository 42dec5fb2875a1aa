"""The documentation is true: commands, flags, names and files it mentions exist, and its recipes do what they say."""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from tests.helpers import tiny_dataset, tiny_yaml
from toolchain import errors
from toolchain.cli import app
from toolchain.config import RunConfig, load_config, read_toml
from toolchain.device.target import list_targets, load_target
from toolchain.pruning.criteria import CRITERIA
from toolchain.quantization.recipe import list_recipes, load_recipe
from toolchain.selection.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
STAGES = (
    "load", "groups", "criteria", "strategies-and-schedule", "selection", "plan", "sensitivity", "finetune-and-distillation",
    "export", "int8", "build-and-bench", "evaluate", "diagnose", "run-folder", "hosts-over-ssh", "targets", "doctor", "errors",
    "bundle-and-deploy", "fleet", "scaling-out", "energy", "runtimes", "tensorrt", "tensorrt-graphs", "test-lab",
)  # fmt: skip
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
TEXT = "\n".join(page.read_text() for page in PAGES)


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)


def invocations() -> list[tuple[str, list[str]]]:
    """(page, words) of every `toolchain ...` line in a shell block or in inline code."""
    found = []
    for page in PAGES:
        lines = [line for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M) for line in block.splitlines()]
        lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(page))]
        found += [(page.name, shlex.split(line, comments=True)) for line in lines if line.startswith("toolchain ")]
    return found


def anchors(page: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_stage_has_its_page() -> None:
    """And every page says the same things in the same order."""
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} == set(STAGES)
    for stage in STAGES:
        text = (ROOT / "docs" / f"{stage}.md").read_text()
        for part in ("**Does.**", "**Command.**", "**Python.**", "**Traps**"):
            assert part in text, f"docs/{stage}.md lacks {part}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    """A command nobody can find is not there."""
    assert re.search(rf"toolchain {name}\b", TEXT), f"`toolchain {name}` is mentioned nowhere"
    assert f"| `toolchain {name}` |" in README.read_text(), f"the README's table of verbs lacks {name}"


def test_documented_commands_and_flags_exist() -> None:
    """A line copied from the documentation may not fail for its flags."""
    seen = invocations()
    assert len(seen) > 30
    for page, words in seen:
        if words[1] in ("VERB",):
            continue
        assert words[1] in COMMANDS, f"{page}: {shlex.join(words)}"
        command = COMMANDS[words[1]]
        if hasattr(command, "commands") and len(words) > 2:
            assert words[2] in command.commands, f"{page}: {shlex.join(words)}"
            command = command.commands[words[2]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[2:]:
            flag = word.split("=")[0]
            assert not flag.startswith("--") or flag in known | {"--help"}, f"{page}: {shlex.join(words)}: no {flag}"


def test_the_flags_of_run_are_all_listed() -> None:
    """In the README's sentence, none missing and none too many."""
    (listed,) = re.findall(r"The flags of `run`: `([^`]+)`", README.read_text())
    options = {option for parameter in COMMANDS["run"].params for option in parameter.opts if option.startswith("--")}
    assert set(listed.split()) == options


@pytest.mark.parametrize("name", [*CRITERIA, *STRATEGIES, *list_recipes(), *list_targets()])
def test_every_name_a_user_may_choose_is_documented(name: str) -> None:
    """Criteria, strategies, calibration recipes, devices."""
    assert f"`{name}`" in TEXT


def test_links_lead_somewhere() -> None:
    """Files and headings."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: no heading {anchor}"


def test_python_names_exist() -> None:
    """`toolchain.a.b.c` is a module or something in one."""
    names = set(re.findall(r"`(toolchain(?:\.\w+)+)", "\n".join(prose(page) for page in PAGES)))
    assert len(names) > 25
    for name in sorted(names):
        pkgutil.resolve_name(name)


def test_files_named_in_the_documentation_exist() -> None:
    """Paths of this repository."""
    text = "\n".join(prose(page) for page in PAGES)
    paths = set(re.findall(r"`((?:toolchain|tests|targets|calibration|docs|benchmarks|\.ci)/[\w./-]*\w/?)`", text))
    assert len(paths) > 5
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_errors_page_is_the_tree() -> None:
    """Every error with its exit code and its depth."""
    rows = re.findall(r"^\| ((?:&emsp;)*)`(\w+)` \| (\d+) \|", (ROOT / "docs" / "errors.md").read_text(), re.M)
    found = {name: (int(code), indent.count("&emsp;")) for indent, name, code in rows}
    classes = {name: cls for name, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.ToolchainError)}
    assert found == {name: (cls.exit_code, cls.__mro__.index(errors.ToolchainError)) for name, cls in classes.items()}


def test_the_error_shown_is_the_error_raised() -> None:
    """Word for word."""
    shown = str(errors.UnknownNameError("criterion", "fischer", CRITERIA))
    assert f"error: {shown}" in (ROOT / "docs" / "errors.md").read_text()


def test_run_toml_shows_every_key_with_its_default() -> None:
    """It loads, and what is written out is what would hold without it."""
    file = ROOT / "docs" / "run.toml"
    config = load_config(file, {})
    bare = RunConfig(model=file.parent / "best.pt", data=file.parent / "data.yaml", out=file.parent / "runs/run")
    assert config == bare
    commented = re.findall(r"^# (\w+) = ", file.read_text(), re.M)
    written = keys(read_toml(file)) | set(commented)
    assert expected_keys(RunConfig) <= written


def keys(values: dict[str, Any]) -> set[str]:
    """Keys at all levels."""
    return set(values) | {key for value in values.values() if isinstance(value, dict) for key in keys(value)}


def expected_keys(section: type[BaseModel]) -> set[str]:
    """Keys of a section of run.toml and of those below."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= expected_keys(field.annotation)
    return found


def test_the_run_toml_of_the_readme_loads(tmp_path: Path) -> None:
    """With a flag over one of its keys, as the README shows."""
    (block,) = re.findall(r"^```toml\n(# run\.toml\n.*?)^```", README.read_text(), re.S | re.M)
    (tmp_path / "run.toml").write_text(block)
    config = load_config(tmp_path / "run.toml", {"prune.ratio": 0.6})
    assert (config.prune.ratio, config.prune.steps, config.target) == (0.6, 2, "raspberry-pi-5")
    assert config.model == tmp_path / "best.pt"
    assert load_target(config.target).name == config.target


# The recipes of "Extending it", carried out in a copy.


def recipe(name: str) -> list[str]:
    """The code blocks of one recipe, in order, up to the next heading."""
    _, _, text = README.read_text().partition(f"<!-- recipe: {name} -->\n")
    assert text, f"the README has no recipe {name}"
    return re.findall(r"^```(?:python|toml)\n(.*?)^```", re.split(r"^#{2,3} ", text, maxsplit=1, flags=re.M)[0], re.S | re.M)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package as it lies in a checkout, free to be changed, with a tiny model."""
    for folder in ("toolchain", "targets", "calibration"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_yaml()))
    return tmp_path


def python(copy: Path, *words: str) -> str:
    """Output of `python WORDS` with the copy's package."""
    env = {**os.environ, "PYTHONPATH": str(copy), "YOLO_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_recipes_of_criterion_and_strategy(copy: Path) -> None:
    """The two functions are added to their files and used by the command."""
    for name, file in (("criterion", "pruning/criteria.py"), ("strategy", "selection/strategies.py")):
        path = copy / "toolchain" / file
        path.write_text(path.read_text() + "\n\n" + "\n\n".join(recipe(name)))
    flags = ["--imgsz", "64", "--ratio", "0.4", "--align", "4", "--criterion", "weight-std", "--strategy", "front-only"]
    made = json.loads(python(copy, "-m", "toolchain", "prune", "tiny.yaml", *flags, "--out", "cut", "--json"))
    assert (made["criterion"], made["strategy"]) == ("weight-std", "front-only")
    assert 0 < made["reached"]["macs"] < 1
    groups = json.loads((copy / "cut" / "plan.json").read_text())["groups"]
    cut = {group["name"] for group in groups if len(group["kept"][0]) < group["channels"]}
    depths = [int(name.split(".")[1]) for name in cut]
    assert depths
    assert max(depths) <= 5, "the strategy leaves the second half alone"


def test_the_python_example_of_the_readme_runs(copy: Path) -> None:
    """On a tiny model and data set in place of yours."""
    (block,) = re.findall(r"^```python\n(from pathlib.*?)^```", README.read_text(), re.S | re.M)
    tiny_dataset(copy, {"train": 4, "val": 2})
    (copy / "cut").mkdir()
    changes = {"best.pt": "tiny.yaml", "imgsz=640": "imgsz=64"}
    for old, new in changes.items():
        assert old in block
        block = block.replace(old, new)
    assert "macs" in python(copy, "-c", block)
    assert (copy / "cut" / "pruned.pt").is_file()


def test_recipe_of_a_device(copy: Path) -> None:
    """By its path, by its name, and its alignment governs the cut."""
    (copy / "my-board.toml").write_text(recipe("target")[0])
    shown = json.loads(python(copy, "-m", "toolchain", "targets", "my-board.toml", "--json"))
    assert shown["title"] == "My board (4 x Cortex-A55)"
    shutil.copy(copy / "my-board.toml", copy / "targets")
    assert "my-board" in json.loads(python(copy, "-m", "toolchain", "targets", "--json"))["targets"]
    flags = ["--imgsz", "64", "--criterion", "l1", "--target", "my-board.toml", "--out", "cut", "--json"]
    assert json.loads(python(copy, "-m", "toolchain", "prune", "tiny.yaml", *flags))["align"] == 8


def test_recipe_of_a_runtime(copy: Path) -> None:
    """The file is found by its name and passes the contract of runtimes."""
    (copy / "toolchain" / "agent" / "runtimes" / "rt_onnxreference.py").write_text(recipe("runtime")[0])
    (copy / "tests" / "contracts").mkdir(parents=True)
    for file in ("__init__.py", "tinynet.py", "contracts/__init__.py", "contracts/test_runtimes.py"):
        shutil.copy(ROOT / "tests" / file, copy / "tests" / file)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shown = python(copy, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "tests/contracts/test_runtimes.py")
    passed = [line for line in shown.splitlines() if line.startswith("PASSED") and "[onnxreference" in line]
    assert len(passed) >= 7, shown
    assert not [line for line in shown.splitlines() if line.startswith("SKIPPED") and "onnxreference" in line], shown


def test_recipe_of_a_calibration(tmp_path: Path) -> None:
    """By its path."""
    (tmp_path / "few-pictures.toml").write_text(recipe("calibration")[0])
    assert load_recipe(tmp_path / "few-pictures.toml").images == 64
