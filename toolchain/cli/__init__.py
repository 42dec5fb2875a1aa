"""The command line: one command per verb; each body is one call into the package.

`--json` puts exactly one JSON object on stdout; text for people and progress go to stderr. Exit codes are in `errors.py`.
A command is added by a function in one of these files; the order of this import is the order of `toolchain --help`.
"""

from toolchain.cli import jobs, models, graphs, engines, devices, hosts  # noqa: F401, I001 - importing registers the commands
from toolchain.cli.main import main
from toolchain.cli.options import app

__all__ = ["app", "main"]
