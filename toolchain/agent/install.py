"""Install what is missing into a virtual environment in the agent's own folder; nothing else on the device changes.

It sees the system's packages, so what JetPack brings stays in use. As it knows its own path it cannot be built aside and renamed:
a mark is written last, and one without it is neither used nor kept.
"""

import os
import re
import select
import shutil
import subprocess
import sys

from .loader import MARK, VENV
from .wire import AgentError

PACKAGE = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,63}\Z")  # also the name it is imported by
TELL_EVERY_S = 10.0
MOST_TEXT = 500  # of a line
SHOWN = 15  # lines of what failed
OLD_PIP = (20, 3)  # those before it do not know the names of today's wheels
KILLED = -9
CAUSES = (
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    (
        "no_index",
        r"Failed to establish a new connection|NewConnectionError|NameResolutionError|[Nn]ame resolution|timed out|ProxyError"
        r"|SSLError|CERTIFICATE_VERIFY_FAILED|Network is unreachable",
    ),
    ("no_wheel", r"No matching distribution found|not a supported wheel"),
)


def install(job):
    """Make it anew with `packages` in it, and see that they can be imported.

    Returns:
        python: its path.

    Raises:
        AgentError: no_pip, no_index, no_wheel, disk_full, out_of_memory or pip; then nothing is left of it.
    """
    packages = job.need("packages", list)
    if not packages or not all(isinstance(name, str) and PACKAGE.match(name) for name in packages):
        raise AgentError("bad_request", "not names of packages: %r" % packages)
    build = Build(job, os.path.join(job.cache, VENV))
    remove(build.venv)
    job.guard.at_end(build.abandon)
    try:
        os.makedirs(build.temporary, mode=0o700)
        make(build, packages)
        shutil.rmtree(build.temporary)
        write_mark(build.venv)
    except BaseException:
        remove(build.venv)
        raise
    return {"python": build.python}


def make(build, packages):
    build.must([build.base, "-m", "venv", "--without-pip", "--system-site-packages", build.venv], "no_pip")
    if build.run([build.python, "-m", "pip", "--version"])[0] != 0:
        build.must([build.python, "-m", "ensurepip"], "no_pip")
    if pip_version(build) < OLD_PIP:
        build.pip("--upgrade", "pip")
    build.pip("--only-binary=:all:", *packages)
    build.must([build.python, "-c", "import " + ", ".join(packages)], "pip")


def pip_version(build):
    shown = build.must([build.python, "-m", "pip", "--version"], "no_pip")
    found = re.search(r"^pip (\d+)\.(\d+)", shown, re.M)
    if not found:
        raise AgentError("no_pip", "pip does not say its version: %s" % shown)
    return int(found.group(1)), int(found.group(2))


class Build:
    """A virtual environment in the making: runs programs for it and tells the host what they print."""

    def __init__(self, job, venv):
        self.venv, self.python, self.temporary = venv, os.path.join(venv, "bin", "python"), os.path.join(venv, "tmp")
        self.base = os.path.realpath(sys.executable)  # this may run in the very environment that is about to be removed
        self._job, self._process = job, None

    def pip(self, *words):
        # its cache would lie outside the agent's folder
        return self.must([self.python, "-m", "pip", "install", "--no-cache-dir", *words], "pip")

    def must(self, words, kind):
        """What a program prints; if it fails, an error of the kind its words tell, else of `kind`."""
        status, lines = self.run(words)
        text = "\n".join(lines[-SHOWN:])
        if status == 0:
            return text
        if status == KILLED:
            raise AgentError("out_of_memory", "killed: %s" % " ".join(words[1:4]))
        said = next((cause for cause, pattern in CAUSES if re.search(pattern, "\n".join(lines))), kind)
        raise AgentError(said, "%s ended with status %d\n%s" % (" ".join(words[1:]), status, text))

    def run(self, words):
        """Exit status and lines of a program; each line is an event, and while it is silent, how much has come on the disk."""
        about = {"TMPDIR": self.temporary, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
        environment = dict(os.environ, LC_ALL="C.UTF-8", PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", **about)
        process = self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd="/"
        )
        lines, rest, told = [], b"", None
        with process.stdout as stream:
            while True:
                if not select.select([stream], [], [], TELL_EVERY_S)[0]:
                    size = size_of(self.venv)
                    if size != told:  # else it hangs, and the host must not think otherwise
                        told = size
                        self._job.event("grown", bytes=size)
                    continue
                block = os.read(stream.fileno(), 1 << 16)
                *whole, rest = re.split(b"[\r\n]+", rest + (block or b"\n"))
                for line in filter(None, whole):
                    lines.append(line.decode("utf-8", "replace")[:MOST_TEXT])
                    self._job.event("line", text=lines[-1])
                if not block:
                    return process.wait(), lines

    def abandon(self):
        """At the end of the agent: an environment in the making goes."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if not os.path.exists(os.path.join(self.venv, MARK)):
            remove(self.venv)


def write_mark(venv):
    """Say that it is whole, once all of it is on the disk."""
    os.sync()
    with open(os.path.join(venv, MARK), "w") as stream:
        stream.write("made by edge-toolchain\n")


def remove(venv):
    """The mark first: what is half removed must not be used."""
    if os.path.islink(venv):
        os.remove(venv)
    if os.path.lexists(os.path.join(venv, MARK)):
        os.remove(os.path.join(venv, MARK))
    shutil.rmtree(venv, ignore_errors=True)  # two threads may do it at once


def size_of(folder):
    """Bytes of all files in it."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # it has just gone
                pass
    return total
