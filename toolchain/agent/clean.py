"""Take the agent's own folder away from this machine; what is not the agent's stays and is named."""

import os

from . import journal

OWN = ("agent", "engines", "files", "out", "trial", "venv")  # folders that operations make in the cache


def remove(path):
    """Remove a folder of plain files; links go, never what they point at.

    Returns:
        files, bytes.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        try:
            size = os.lstat(path).st_size
            os.remove(path)
        except FileNotFoundError:  # another agent was quicker
            return 0, 0
        return 1, size
    files = size = 0
    for name in os.listdir(path):
        some, more = remove(os.path.join(path, name))
        files, size = files + some, size + more
    os.rmdir(path)
    return files, size


def clean(job):
    """Remove it.

    Returns:
        folder, files and bytes removed by kind, and names that were left because they are not the agent's.
    """
    journal.heal_unless_held(job.root, job.cache)  # else what says how to put the power mode back would stay, or be lost
    removed = {}
    for name in OWN:
        path = os.path.join(job.cache, name)
        if os.path.lexists(path):
            files, size = remove(path)
            removed[name] = {"files": files, "bytes": size}
    left = sorted(os.listdir(job.cache)) if os.path.isdir(job.cache) else []
    if not left and os.path.isdir(job.cache) and not os.path.islink(job.cache):
        os.rmdir(job.cache)
    return {"folder": job.cache, "removed": removed, "left": left}
