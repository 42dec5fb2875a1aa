"""What a user gets by `pip install`: one import name, every sub-package, every data file, and nothing else."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from toolchain import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("toolchain", "targets", "calibration", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
HEAVY = ("torch", "torchvision", "ultralytics", "torch_pruning", "onnx", "onnxruntime", "cv2", "scipy", "plotly", "asyncssh")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, as an index would; in a copy, so that no stale `build/` can add to it."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    for stranger in ("tests", "benchmarks"):  # with an __init__.py, which a package search would pick up
        (source / stranger).mkdir()
        (source / stranger / "__init__.py").touch()
    build = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    archive = run(sys.executable, "-c", build, folder, cwd=source).splitlines()[-1]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, folder / archive, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Files inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_only_toolchain_lands_in_site_packages(names: set[str]) -> None:
    """`targets`, `calibration`, `tests` and `benchmarks` are names anybody may use."""
    assert {name.split("/")[0] for name in names} == {"toolchain", f"edge_toolchain-{__version__}.dist-info"}


def test_every_source_file_is_inside(names: set[str]) -> None:
    """A sub-package missing in setup.cfg would be left out without a word."""
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "toolchain").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_every_package_is_listed() -> None:
    """The list in setup.cfg is the folders on disk and the two mapped data folders."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "toolchain").rglob("__init__.py")}
    assert folders | {"toolchain.targets", "toolchain.calibration"} == set(config["options"]["packages"].split())


def test_data_files_are_inside(names: set[str]) -> None:
    """Devices, recipes, the report's templates and styles, the marker of typed packages."""
    expected = {"toolchain/py.typed"}
    for folder in ("targets", "calibration"):
        found = {f"toolchain/{folder}/{path.name}" for path in (ROOT / folder).glob("*.toml")}
        assert found
        expected |= found
    others = [path for kind in ("*.j2", "*.css") for path in (ROOT / "toolchain").rglob(kind)]
    assert {path.suffix for path in others} == {".j2", ".css"}
    expected |= {path.relative_to(ROOT).as_posix() for path in others}
    assert expected <= names


def test_licence_and_command_are_declared(wheel: Path) -> None:
    """The metadata names licence, Python and the console command."""
    info = f"edge_toolchain-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
        assert "toolchain = toolchain.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    head = metadata.split("\n\n")[0].splitlines()
    assert "License-Expression: Apache-2.0" in head
    assert "Requires-Python: >=3.10" in head


def test_the_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    """From another folder, without the checkout beside it."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    run(*pip, "--target", site, wheel, cwd=tmp_path)
    where = run(sys.executable, "-c", "import toolchain; print(toolchain.__file__)", cwd=elsewhere, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    listed = run(sys.executable, "-m", "toolchain", "targets", "--json", cwd=elsewhere, PYTHONPATH=str(site))
    assert json.loads(listed)["targets"] == sorted(path.stem for path in (ROOT / "targets").glob("*.toml"))
    code = (
        "from toolchain.quantization.recipe import list_recipes, load_recipe\n"
        "from toolchain.device.agent_package import agent_package\n"
        "from toolchain.report.html import write_report\n"
        "from pathlib import Path\n"
        "[load_recipe(name) for name in list_recipes()]\n"
        "assert list_recipes() and agent_package().data\n"
        "write_report({'title': 't', 'created': 'now', 'command': 'c'}, Path('r.html'))"
    )
    run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=str(site))
    assert (elsewhere / "r.html").stat().st_size > 1000


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["targets"]])
def test_light_commands_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """Help must come at once."""
    code = (
        "import sys\n"
        "sys.argv = ['toolchain', *sys.argv[1:]]\n"
        "from toolchain.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('heavy:', *sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    shown = run(sys.executable, "-c", code, *words, cwd=tmp_path)
    assert shown.splitlines()[-1].strip() == "heavy:"


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    """`import toolchain` is for anybody."""
    code = f"import sys, toolchain; print('heavy:', *sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "heavy:"


def test_verbs_that_talk_to_a_device_do_not_wait_for_torch(tmp_path: Path) -> None:
    """A rollback must not begin with seconds of imports."""
    code = (
        "import sys\n"
        "from toolchain import requests, verbs\n"
        "verbs.bench, verbs.bench_fleet, verbs.build, verbs.deploy, verbs.rollback, verbs.examine, verbs.selftest\n"
        "print('heavy:', *sorted({'torch', 'ultralytics', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).strip() == "heavy:"


def test_every_verb_is_there() -> None:
    """They are loaded by name when first used: a name that is not there would be found by a user only."""
    from toolchain import verbs

    assert sorted(verbs._MODULES) == sorted(verbs.__all__)
    assert all(getattr(verbs, name) for name in verbs.__all__)
