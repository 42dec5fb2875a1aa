"""The only package that imports ultralytics.

Importing it first keeps ultralytics at home: no downloads, no `pip install`, no telemetry, and its settings file goes to this
package's own cache folder, so that a user's ultralytics settings neither change nor change a result.
"""

import os as _os
from pathlib import Path as _Path

_os.environ.setdefault("YOLO_OFFLINE", "true")
_os.environ.setdefault("YOLO_AUTOINSTALL", "false")
_os.environ.setdefault("YOLO_VERBOSE", "false")
_cache = _Path(_os.environ.get("XDG_CACHE_HOME") or _Path.home() / ".cache")
_os.environ.setdefault("YOLO_CONFIG_DIR", str(_cache / "edge-toolchain"))
