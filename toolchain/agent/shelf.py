"""Where one deployed model lives, and what may be done there while its lock is held.

FOLDER/NAME/versions/VERSION/   whole bundles; VERSION begins with the hash of their manifest
FOLDER/NAME/current             link to the one in service, only ever renamed over
FOLDER/NAME/history.json        versions in the order they came into service; entries after the current one never did
FOLDER/NAME/failures/           why versions were refused
FOLDER/NAME/.lock               held (flock) while anything changes; a killed holder lets go of it
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time

from . import files
from .wire import AgentError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
VERSION = re.compile(r"[0-9a-f]{16}(-[0-9]{1,4})?$")
MANIFEST = "manifest.json"
KEEP = 5  # versions, the one in service among them


def sync(path):
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path, default):
    try:
        with open(path) as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return default


def damage(folder, version):
    """Why the bundle in `folder` is not version `version`, whole; None when it is."""
    path = os.path.join(folder, MANIFEST)
    try:
        if files.sha256(path)[:16] != version[:16]:
            return "%s was changed" % path
        with open(path) as stream:
            listed = json.load(stream)["files"]
        for name in sorted(listed):
            if files.sha256(os.path.join(folder, name)) != listed[name]["sha256"]:
                return "%s was changed" % os.path.join(folder, name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


class Shelf:
    """The versions of one model."""

    def __init__(self, folder, name):
        if not NAME.match(name):
            raise AgentError("bad_request", "%r is not a name of a model" % name)
        self.name, self.folder = name, os.path.join(folder, name)
        self.link, self.versions = os.path.join(self.folder, "current"), os.path.join(self.folder, "versions")

    def path(self, version):
        return os.path.join(self.versions, version)

    @contextlib.contextmanager
    def held(self, who, wait_s):
        """Nobody else changes anything here until the block ends."""
        with open(os.path.join(self.folder, ".lock"), "a+") as lock:
            until = time.time() + wait_s
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.time() > until:
                        lock.seek(0)
                        raise AgentError("busy", "%s: %s" % (self.folder, lock.read(500) or "another deployment")) from None
                    time.sleep(0.1)
            lock.seek(0)
            lock.truncate()
            lock.write("%s, process %d, since %s" % (who, os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")))
            lock.flush()
            yield

    def current(self):
        """The version in service, or None."""
        if os.path.lexists(self.link) and not os.path.islink(self.link):
            raise AgentError("deploy", "%s is not a link of ours: move it away" % self.link)
        version = os.path.basename(os.readlink(self.link)) if os.path.islink(self.link) else None
        return version if version and VERSION.match(version) else None

    def history(self):
        """Versions that have been in service, the current one last."""
        now, known = self.current(), read_json(os.path.join(self.folder, "history.json"), [])
        known = [version for version in known if isinstance(version, str) and VERSION.match(version)]
        if now is None:
            return []
        if now not in known:
            return [*known, now]
        return known[: len(known) - known[::-1].index(now)]

    def write_history(self, versions):
        path = os.path.join(self.folder, "history.json")
        partial = path + ".new"
        with open(partial, "w") as stream:
            json.dump(versions, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(partial, path)
        sync(self.folder)

    def switch(self, version):
        """Put a version into service: one rename, before it the old, after it the new."""
        partial = self.link + ".new"
        if os.path.lexists(partial):
            os.remove(partial)
        os.symlink(os.path.join("versions", version), partial)
        os.rename(partial, self.link)
        sync(self.folder)

    def keep_failure(self, version, error):
        """Remember why a version was refused; its files go, unless it has been in service."""
        folder = os.path.join(self.folder, "failures")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, version + ".json"), "w") as stream:
            json.dump({"version": version, "time_unix": time.time(), "kind": error.kind, "text": str(error)}, stream)
        if version not in self.history():
            shutil.rmtree(self.path(version), ignore_errors=True)

    def failures(self):
        folder = os.path.join(self.folder, "failures")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found = [read_json(os.path.join(folder, name), None) for name in names]
        return [one for one in found if isinstance(one, dict)]

    def tidy(self):
        """Remove what a kill has left half made."""
        for name in ("history.json.new", "current.new"):
            if os.path.lexists(os.path.join(self.folder, name)):
                os.remove(os.path.join(self.folder, name))
        shutil.rmtree(os.path.join(self.folder, ".staging"), ignore_errors=True)

    def prune(self):
        """Remove versions older than the last KEEP, and those that never came into service."""
        kept = self.history()[-KEEP:]
        for version in os.listdir(self.versions) if kept else ():
            if VERSION.match(version) and version not in kept:
                shutil.rmtree(self.path(version), ignore_errors=True)
