"""Who imports whom: the contracts of pyproject.toml hold, and each of them notices when it is broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
STANDARD = set(sys.stdlib_module_names)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the `toolchain` of a folder, by that folder's pyproject.toml."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_contracts_hold() -> None:
    """The arrows of the package as it is."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be broken."""
    shutil.copytree(ROOT / "toolchain", tmp_path / "toolchain", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


BREAKS = {
    "stage.py": ("toolchain.pipeline", "cli -> demo -> pipeline"),
    "selection/strategies.py": ("toolchain.verbs", "cli -> demo -> pipeline"),
    "errors.py": ("toolchain.stage", "cli -> demo -> pipeline"),
    "pruning/criteria.py": ("ultralytics", "only toolchain.yolo imports ultralytics"),
    "pruning/plan.py": ("torch_pruning", "only toolchain.pruning.groups imports torch_pruning"),
    "device/bundle.py": ("toolchain.agent.files", "nobody else reaches into the agent"),
    "agent/probe.py": ("toolchain.errors", "the agent imports nothing of ours"),
    "measurement/stats.py": ("toolchain.stage", "measurement is pure"),
    "report/html.py": ("toolchain.pruning.plan", "the report works from files alone"),
    "export/parity.py": ("toolchain.yolo.loss", "export and INT8 work on any module"),
}


def test_every_contract_notices_a_wrong_import(copy: Path) -> None:
    """All wrong imports at once, one a contract at least; inside a function, where a reader would miss it."""
    for file, (module, _) in BREAKS.items():
        path = copy / "toolchain" / file
        path.write_text(path.read_text() + f"\n\ndef _wrong():\n    import {module}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    for _, contract in BREAKS.values():
        assert any(line.startswith(contract) for line in broken), (contract, done.stdout)
    assert "0 kept" in done.stdout, done.stdout


def test_a_new_module_needs_a_place_in_the_order(copy: Path) -> None:
    """A file nobody put into the layers is an error, not a hole in them."""
    (copy / "toolchain" / "stray.py").write_text("import toolchain.cli\n")
    done = lint(copy)
    assert done.returncode == 1
    assert "stray" in done.stdout


def external(room: str) -> set[str]:
    """Packages that a room imports, without the standard library and our own."""
    graph = grimp.build_graph("toolchain", include_external_packages=True, cache_dir=None)
    modules = {f"toolchain.{room}", *graph.find_descendants(f"toolchain.{room}")}
    found = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    return {name.split(".")[0] for name in found} - STANDARD - {"toolchain"}


def test_measurement_needs_only_numpy_and_scipy() -> None:
    """A list of what is forbidden is never complete; this is the list of what is allowed."""
    assert external("measurement") <= {"numpy", "scipy"}


def test_the_report_needs_no_network_of_any_kind() -> None:
    """It reads files and writes a page."""
    assert external("report") <= {"jinja2", "numpy", "pydantic", "rich"}
