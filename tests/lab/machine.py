"""Tier D: a whole emulated aarch64 machine with a kernel of its own. Its timings are no device's."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lab.device import Device, start
from tests.lab.machine_image import GUEST, LINK, Files, archive, machine_image
from tests.lab.network import PERFECT, Wire, can_make_networks
from tests.lab.require import needs_programs
from tests.lab.sshd import write_settings

CPU, CORES, MEMORY = "cortex-a76", "2", "1G"
BOOT_S = 180.0  # 7 s on a quiet machine
READY = "Server listening"


class Machine(Device, Wire):
    """A machine behind a wire. Its disk outlives a power cut; what was not synced to it does not."""

    namespace: str
    board: Sequence[str] = ()

    def boot(self) -> None:
        """Switch it on, and wait for its ssh server."""
        ready = self._times_ready()
        self.set(**PERFECT)
        self._start()
        self._wait(ready)

    def power_off(self) -> None:
        """Pull the plug: silence on the wire, memory gone."""
        self.cut()  # first, or the emulator's end would close the connections politely
        self.process.kill()
        self._end()

    def reset(self) -> None:
        """The reset button: a boot without a goodbye; returns at once. `wait_until_up` waits for its end."""
        self._ready_before = self._times_ready()
        self.command("system_reset")

    def reboot(self) -> None:
        """Its kernel reboots at once, without a goodbye; returns at once. `wait_until_up` waits for its end."""
        self._ready_before = self._times_ready()
        self.run("(sleep 0.2; echo b > /proc/sysrq-trigger) > /dev/null 2>&1 < /dev/null &", BOOT_S)

    def wait_until_up(self) -> None:
        """After `reset` or `reboot`."""
        self._wait(self._ready_before)

    def freeze(self) -> None:
        self.command("stop")

    def thaw(self) -> None:
        self.command("cont")

    def recover(self) -> None:
        """Make it answer again, whatever was done to it."""
        if self.is_on:
            self.thaw()
            self.set(**PERFECT)
            try:
                if self.run("true", 20).returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            self.power_off()
        self.boot()

    @property
    def is_on(self) -> bool:
        return self.process.poll() is None

    def command(self, name: str) -> Any:
        """A command of qemu's machine protocol."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"execute": name}).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        if self.is_on:
            self.process.kill()
        self._end()

    def _start(self) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        words = ["nsenter", f"--net={self.namespace}", *self._qemu("-M", "virt"), *self._system()]
        with (self.folder / "qemu.log").open("ab") as log:
            self.process = start(*words, "-monitor", "none", "-qmp", "stdio", **pipes, stderr=log)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():  # the greeting
            pytest.fail(f"the emulator did not start: {(self.folder / 'qemu.log').read_text()}")
        self.command("qmp_capabilities")

    def _qemu(self, *machine: str) -> list[str]:
        """The emulator and what it emulates."""
        return [
            *("qemu-system-aarch64", *machine, "-cpu", CPU, "-smp", CORES, "-m", MEMORY, "-accel", "tcg,thread=multi"),
            *("-nographic", "-nodefaults", "-drive", f"if=none,id=d0,file={self.folder}/disk,format=raw"),
            *("-device", "virtio-blk-pci,drive=d0", "-device", "virtio-net-pci,netdev=n0,romfile="),
            *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:{self.address}:{self.port}-:22"),
        ]

    def _system(self) -> list[str]:
        """What it boots, and where its console is written."""
        words = ["-kernel", str(machine_image() / "vmlinuz"), "-initrd", str(self.folder / "initrd")]
        words += ["-append", "console=ttyAMA0 quiet panic=1"]
        words += ["-chardev", f"file,id=c0,path={self.folder}/log,append=on", "-serial", "chardev:c0"]
        if self.board:
            words += ["-dtb", str(self._device_tree())]
        return words

    def _device_tree(self) -> Path:
        """The emulator's own under the board's name; the kernel's drivers still find "linux,dummy-virt" at its end."""
        needs_programs("D", fdtput="device-tree-compiler", dtc="device-tree-compiler")
        tree, dump = self.folder / "board.dtb", self.folder / "qemu.dtb"
        model, *compatible = self.board
        enter = ["nsenter", f"--net={self.namespace}"]
        for command in (
            [*enter, *self._qemu("-M", f"virt,dumpdtb={dump}")],
            ["dtc", "-q", "-I", "dtb", "-O", "dtb", "-o", str(tree), str(dump)],  # the dump is 1 MB of padding
            ["fdtput", "-t", "s", str(tree), "/", "model", model],
            ["fdtput", "-t", "s", str(tree), "/", "compatible", *compatible, "linux,dummy-virt"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        return tree

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            if "event" not in answer:
                assert "error" not in answer, answer
                return answer["return"]
        pytest.fail("the emulator has ended")

    def _end(self) -> None:
        self.process.wait(15)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def _times_ready(self) -> int:
        return self.log().count(READY)

    def _wait(self, before: int) -> None:
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self.is_on:
            if self._times_ready() > before:
                return
            time.sleep(0.1)
        pytest.fail(f"the machine did not boot:\n{self.log()[-4000:]}")


def start_machine(
    folder: Path, namespace: str, address: str, port: int, *, fake: Path | None = None, board: Sequence[str] = ()
) -> Machine:
    """Make one and switch it on; its wire is still to be given.

    Args:
        fake: tree of hardware: laid over the disk; its `sys` over the machine's own /sys.
        board: model and compatible texts of its device tree; default qemu's own.
    """
    image = machine_image()
    write_settings(folder, address, port, "root", "SetEnv ORT_DISABLE_TELEMETRY=1 HOME=/home/dev")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(image / "disk"), str(folder / "disk")], check=True)
    (folder / "initrd").write_bytes((image / "initrd").read_bytes() + archive(_own_files(folder, fake)))
    machine = Machine(folder, address, port, None)  # type: ignore[arg-type]
    machine.namespace, machine.board = namespace, board
    machine._start()
    machine._wait(0)
    return machine


def _own_files(folder: Path, fake: Path | None) -> Files:
    settings = (folder / "sshd_config").read_text().replace(str(folder), "/etc/edge").splitlines()
    settings = [line for line in settings if line.split()[0] not in ("Port", "ListenAddress")]
    files: Files = {"edge/sshd_config": (0o644, "\n".join([*settings, "Port 22", ""]).encode())}
    files["edge/second.sh"] = (0o755, (GUEST / "second.sh").read_bytes())
    files["edge/host"] = (0o600, (folder / "host").read_bytes())
    files["edge/authorized_keys"] = (0o644, (folder / "authorized_keys").read_bytes())
    return files | (_tree(fake) if fake else {})


def _tree(fake: Path) -> Files:
    files: Files = {}
    for path in sorted(fake.rglob("*")):
        name = f"edge/fake/{path.relative_to(fake)}"
        if path.is_symlink():
            files[name] = (LINK, str(path.readlink()).encode())
        elif path.is_file():
            files[name] = (path.stat().st_mode & 0o777, path.read_bytes())
    return files


def can_make_machines() -> None:
    """Skip, or fail, where that is impossible."""
    can_make_networks("D")
    needs_programs("D", qemu_system_aarch64="qemu-system-arm", mmdebstrap="mmdebstrap", mke2fs="e2fsprogs", nsenter="util-linux")
