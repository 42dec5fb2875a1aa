"""Entry point: runs the command, turns errors raised on purpose into a message and their exit code."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import typer

from toolchain.cli.options import app
from toolchain.errors import DiskFullError, RunFolderError, ToolchainError

INTERRUPTED = 130  # exit code after Ctrl-C, by the shells' convention


def fail(error: ToolchainError) -> NoReturn:
    """The message for people, and the exit code."""
    from toolchain.progress import console

    console.print("[bold red]error:[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)
    sys.exit(error.exit_code)


def of_system(error: OSError) -> ToolchainError:
    """A file that could not be made, read or written, outside a stage."""
    place = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError("no space left", got=place, fix="free some space and run the same command: what is finished stays")
    return RunFolderError("the system refused a file", got=place, fix="check the path and its rights, or give another --out")


def main() -> None:
    """Entry point: errors raised on purpose become a message and their exit code; Ctrl-C keeps what is finished."""
    from toolchain.progress import console

    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer turns Ctrl-C into a returned exit code
            raise KeyboardInterrupt
        sys.exit(code)
    except ToolchainError as error:
        fail(error)
    except OSError as error:
        fail(of_system(error))
    except (KeyboardInterrupt, typer.Abort):
        console.print("stopped; run the same command again to go on", markup=False)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own usage errors
            error.show()
            sys.exit(error.exit_code)
        raise
