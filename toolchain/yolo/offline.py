"""Keep ultralytics from fetching anything: environment variables alone do not stop its font and weight downloads."""

from __future__ import annotations

from typing import Any


def stay_offline() -> None:
    """Make every download attempt of ultralytics fail at once, in this process. Safe to call again."""
    from ultralytics.utils import downloads

    downloads.is_url = _is_local_url
    downloads.safe_download = _refuse
    downloads.attempt_download_asset = _local_only


def _is_local_url(url: object, check: bool = False) -> bool:
    """As ultralytics' own, with every address unreachable."""
    return str(url).startswith(("http://", "https://")) and not check


def _refuse(url: object, *args: Any, **kwargs: Any) -> Any:
    raise ConnectionError(f"edge-toolchain never downloads; asked for {url}")


def _local_only(file: object, *args: Any, **kwargs: Any) -> str:
    return str(file)


def stay_quiet() -> None:
    """Keep ultralytics' own progress bars off the screen: ours say how far a training is and how long it takes."""
    import importlib

    from ultralytics.utils import TQDM

    class Silent(TQDM):  # type: ignore[misc]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})

    for name in ("data.base", "data.dataset", "engine.trainer", "engine.validator"):
        module: Any = importlib.import_module(f"ultralytics.{name}")
        module.TQDM = Silent
