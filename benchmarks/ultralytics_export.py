"""One INT8 export by ultralytics itself, in a process of its own that installs nothing and reaches no network.

    python benchmarks/ultralytics_export.py --model best.pt --data data.yaml --imgsz 320 --format openvino --out runs/openvino

Needs ultralytics alone, so that another environment can run it, such as one that has nncf. Its exporter calibrates on the `val`
split of the data YAML, whatever stands there. The last line on stdout is the engine's file, or on stderr why there
is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
from pathlib import Path
from typing import Any


def refuse(*_: Any, **__: Any) -> Any:
    raise OSError("a benchmark does not use the network")


def export(model: Path, data: Path, imgsz: int, kind: str, out: Path) -> Path:
    """The engine's file; ultralytics writes beside the .pt, so it gets a copy."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(out)}
    socket.getaddrinfo = socket.socket.connect = refuse  # type: ignore[assignment, method-assign]
    from ultralytics import YOLO

    copy = out / "rival.pt"
    shutil.copyfile(model, copy)
    try:
        made = Path(YOLO(copy).export(format=kind, quantize=8, data=str(data), imgsz=imgsz, batch=1, device="cpu"))
    finally:
        copy.unlink()
    return next(made.glob("*.xml")) if made.is_dir() else made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--format", choices=("onnx", "openvino"), required=True)
    args = parser.parse_args()
    print(f"\n{export(args.model.resolve(), args.data.resolve(), args.imgsz, args.format, args.out.resolve())}")


if __name__ == "__main__":
    main()
