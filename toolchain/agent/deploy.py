"""A bundle put into service on this machine: installed beside the version before, tried, then switched to in one step.

Killed at any point, `current` is the old version or the new one, each whole and tried here.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil

from . import files, ready, shelf, smoke
from .shelf import Shelf
from .wire import AgentError

FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
SPARE_BYTES = 1 << 20


def _folder(job):
    folder = os.path.expanduser(job.need("to", str))
    if not os.path.isabs(folder):
        raise AgentError("bad_request", "%r is not an absolute folder" % folder)
    return folder


@contextlib.contextmanager
def _explained(folder):
    """Errors of the file system, without a traceback; no space left has a name of its own."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AgentError("disk_full", "%s: %s" % (folder, error)) from error
        raise AgentError("deploy", str(error)) from error


def have(job):
    """Which of the files (by hash) lie in a version deployed before: {hash: path}."""
    place, wanted, found = Shelf(_folder(job), job.need("name", str)), set(job.need("sha256", list)), {}
    for version in sorted(os.listdir(place.versions)) if os.path.isdir(place.versions) else ():
        for name in sorted(os.listdir(place.path(version))):
            path = os.path.join(place.path(version), name)
            if os.path.isfile(path) and not os.path.islink(path):
                found[files.sha256(path)] = path
    return {"have": {digest: path for digest, path in found.items() if digest in wanted}}


def _copy(source, target, want):
    digest = hashlib.sha256()
    with open(source, "rb") as reading, open(target, "wb") as writing:
        for block in iter(lambda: reading.read(1 << 20), b""):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if digest.hexdigest() != want:
        raise AgentError("upload", "%s: sha256 %s, expected %s" % (os.path.basename(target), digest.hexdigest(), want))


def install(place, version, listed):
    """Bring the files together as a version of its own, which nothing points at yet.

    Args:
        listed: name -> {"path", "sha256"}.

    Returns:
        its name: `version`, or with a number behind it when a damaged one is in the way.
    """
    name, number = version, 1
    while os.path.lexists(place.path(name)):
        if shelf.damage(place.path(name), name) is None:
            return name
        number += 1
        name = "%s-%d" % (version, number)
    needed = sum(os.path.getsize(one["path"]) for one in listed.values()) + SPARE_BYTES
    space = os.statvfs(place.folder)
    if space.f_bavail * space.f_frsize < needed:
        free = space.f_bavail * space.f_frsize
        raise AgentError("disk_full", "%s: %d bytes are needed, %d are free" % (place.folder, needed, free))
    staging = os.path.join(place.folder, ".staging")
    os.mkdir(staging)
    try:
        for file in sorted(listed):
            _copy(listed[file]["path"], os.path.join(staging, file), listed[file]["sha256"])
        wrong = shelf.damage(staging, version)
        if wrong is not None:
            raise AgentError("upload", wrong)
        shelf.sync(staging)
        os.rename(staging, place.path(name))
        shelf.sync(place.versions)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return name


def _tried(job, place, version):
    """The engine made ready and the bundle tried, or the version refused: see ready.ready and smoke.check."""
    try:
        engine = ready.ready(job, place.path(version))
        job.event("step", step="try")
        return {"engine": engine, "tried": smoke.check(place.path(version), job.need("limit_s", (int, float)))}
    except AgentError as error:
        place.keep_failure(version, error)
        now = place.current()
        stays = "%s stays in service" % now if now else "nothing is in service"
        raise AgentError(error.kind, "%s\n%s" % (error, stays)) from error


def deploy(job):
    """Install, try, switch.

    Returns:
        folder, version, the version before, whether anything changed, what engine it runs (ready.ready) and what the trial found.
    """
    version, listed, wait_s = job.need("version", str), job.need("files", dict), job.need("wait_s", (int, float))
    if not shelf.VERSION.match(version) or not all(FILE.match(name) for name in listed) or shelf.MANIFEST not in listed:
        raise AgentError("bad_request", "a bad version or file name of a deployment")
    place = Shelf(_folder(job), job.need("name", str))
    with _explained(place.folder):
        os.makedirs(place.versions, exist_ok=True)
        with place.held(job.need("who", str), wait_s):
            place.tidy()
            before = place.current()
            job.event("step", step="install")
            version = install(place, version, listed)
            found = _tried(job, place, version)
            job.event("step", step="switch")
            if version != before:
                place.write_history([*place.history(), version])
                place.switch(version)
            place.prune()
    return dict(found, folder=place.folder, version=version, before=before, switched=version != before)


def rollback(job):
    """Back to the version that was in service before, tried again first."""
    place = Shelf(_folder(job), job.need("name", str))
    if not os.path.isdir(place.versions):
        raise AgentError("deploy", "nothing is deployed at %s" % place.folder)
    with _explained(place.folder), place.held(job.need("who", str), job.need("wait_s", (int, float))):
        known = place.history()
        if len(known) < 2:
            raise AgentError("deploy", "%s: there is no version before %s" % (place.folder, known[-1] if known else "the first"))
        before, version = known[-1], known[-2]
        job.event("step", step="check")
        wrong = shelf.damage(place.path(version), version)
        if wrong is not None:
            raise AgentError("deploy", "%s cannot be gone back to: %s; %s stays in service" % (version, wrong, before))
        found = _tried(job, place, version)
        job.event("step", step="switch")
        place.switch(version)
        place.write_history(known[:-1])
    return dict(found, folder=place.folder, version=version, before=before, switched=True)


def deployed(job):
    """All models in the folder, with their versions and why others were refused."""
    folder, models = _folder(job), []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not shelf.NAME.match(name) or not os.path.isdir(os.path.join(folder, name, "versions")):
            continue
        place = Shelf(folder, name)
        models.append({"name": name, "folder": place.folder, "history": place.history(), "failures": place.failures()})
    return {"models": models}
