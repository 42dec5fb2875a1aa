"""Root file system of the aarch64 devices: Debian with Python, an ssh server, numpy and ONNX Runtime.

Packages are only unpacked, so that not one aarch64 program runs while it is built (half a minute instead of four); what their
scripts would have done is done here.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from tests.lab.cache import cached, step
from tests.lab.require import needs_programs, needs_root

SUITE, PYTHON = "bookworm", "3.11"
MIRROR = os.environ.get("EDGE_LAB_MIRROR", "http://deb.debian.org/debian")
WHEELS = ("onnxruntime==1.32.0", "numpy==2.4.6")
PACKAGES = (
    *("base-files", "base-passwd", "dash", "bash", "coreutils", "grep", "sed", "gawk", "findutils", "tar", "gzip"),
    *("procps", "util-linux", "hostname", "iproute2", "kmod", "mount", "login", "passwd"),
    *("python3", "openssh-server", "openssh-sftp-server", "libgomp1", "libstdc++6", "libgcc-s1"),
)
UNUSED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


def arm_tree(tier: str) -> Path:
    """The tree, built where it does not exist; never written to afterwards."""
    needs_root(tier)
    needs_programs(tier, mmdebstrap="mmdebstrap")
    return cached("arm-tree", Path(__file__), MIRROR, build=build) / "root"


def unpack_debian(root: Path, packages: tuple[str, ...]) -> None:
    """Packages for aarch64, unpacked into `root`."""
    hook = Path("/usr/share/mmdebstrap/hooks/merged-usr")
    options = [f"--hook-dir={hook}"] if hook.exists() else []
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED]
    what = ["--arch=arm64", "--variant=extract", "--mode=root", f"--include={','.join(packages)}"]
    step("mmdebstrap", "--quiet", *what, *options, SUITE, root, MIRROR)


def build(folder: Path) -> None:
    root = folder / "root"
    unpack_debian(root, PACKAGES)
    for name in ("proc", "sys", "dev", "run/sshd", "home/dev", "var/log", "var/empty"):
        (root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    _users(root)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    if not (root / "usr/bin/awk").exists():
        (root / "usr/bin/awk").symlink_to("gawk")
    (root / "etc/hostname").write_text("edge-arm64\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost edge-arm64\n")
    cpus = root / "sys/devices/system/cpu"  # ONNX Runtime looks for these two, and crashes over those of an x86 host
    cpus.mkdir(parents=True)
    for name in ("possible", "present"):
        (cpus / name).write_text("0-3\n")
    _wheels(folder, root / f"usr/local/lib/python{PYTHON}/dist-packages")


def _users(root: Path) -> None:
    master = (root / "usr/share/base-passwd/passwd.master").read_text().replace(":*:", ":x:")
    passwd = master + "sshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
    (root / "etc/passwd").write_text(passwd)
    (root / "etc/group").write_bytes((root / "usr/share/base-passwd/group.master").read_bytes())
    names = [line.split(":")[0] for line in passwd.splitlines()]
    shadow = root / "etc/shadow"
    shadow.write_text("".join(f"{name}:*:19000:0:99999:7:::\n" for name in names))  # '*', not '!': that would be locked
    shadow.chmod(0o640)


def _wheels(folder: Path, packages: Path) -> None:
    platforms = [f"--platform={tag}_aarch64" for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux2014")]
    python = [f"--python-version={PYTHON}", "--implementation=cp", f"--abi=cp{PYTHON.replace('.', '')}"]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    step(*download, *platforms, *python, "-d", folder / "wheels", *WHEELS)
    packages.mkdir(parents=True)
    for wheel in (folder / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(packages)
        wheel.unlink()
