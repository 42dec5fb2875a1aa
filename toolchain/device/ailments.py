"""What would make a measurement untrustworthy, with the command that mends it. Pure: an examination in, findings out.

"unfit": figures taken now must not be trusted. "warning": they may be shifted or cannot be checked. "note": good to know.
Thresholds are choices of this project, not measured optima.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from toolchain.device import stability
from toolchain.device.state_messages import Probe, State
from toolchain.device.target import Target

if TYPE_CHECKING:
    from toolchain.device.doctor import Examination

BUSY_UNFIT, BUSY_WARNING = 50.0, 10.0  # percent of one core, all other processes together
HOT_C = 80.0
LITTLE_MEMORY, NO_MEMORY = 512 << 20, 128 << 20
LITTLE_DISK, NO_DISK = 1 << 30, 200 << 20
SWAP_USED = 100 << 20
OFFSET_S = 1.0
FULL_SUPPLY_MA = 5000
GENERATION_3_GT_S = 8.0
COOL = "let it cool, turn up the fan, then look again"
GOVERNOR = "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
INSTALL = {
    "tensorrt": "sudo apt-get install tensorrt python3-libnvinfer",
}
MONITORS = {"jtop": "sudo systemctl stop jtop", "tegrastats": "tegrastats --stop"}
INSTALLERS = ("apt", "apt-get", "dpkg")
MIB = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing wrong.

    Attributes:
        command: mends it: on the device, or here if it begins with toolchain; empty where no command does.
    """

    severity: Literal["unfit", "warning", "note"]
    what: str
    why: str
    command: str = ""


def findings(exam: Examination, target: Target | None) -> list[Finding]:
    """The worst first."""
    found = [*_device(exam), *_left(exam), *_clocks(exam, target), *_throttle(exam.state), *_load(exam.state), *_room(exam.state)]
    found += [*_hardware(exam.probe, exam.state), *_power(exam), *_clock_offset(exam)]
    return sorted(found, key=lambda finding: ("unfit", "warning", "note").index(finding.severity))


def _device(exam: Examination) -> Iterator[Finding]:
    if exam.mismatches:
        other = f"toolchain doctor {exam.host} --target {exam.match.best}" if exam.match.best else "toolchain targets"
        yield Finding("unfit", f"not a {exam.target}", "; ".join(exam.mismatches), other)
    if exam.target is None:
        why = "its sensors, rails and pins are then not known; describe it in a TOML file, see docs/targets.md"
        yield Finding("warning", "no target describes this device", why, "toolchain targets")
    install, some = f"toolchain doctor {exam.host} --install", any(exam.probe.runtimes.values())
    if exam.no_runtime or not some:
        why = exam.no_runtime or "no runtime of any kind"
        command = INSTALL.get(why.partition(":")[0].removeprefix("runtime "), install)
        if some:  # what is timed in another is no worse for it
            yield Finding("warning", "the target's default runtime is missing", why, command)
        else:
            yield Finding("unfit", "the runtime is missing", why, command)
    if some and exam.probe.numpy is None:
        yield Finding("unfit", "numpy is missing", exam.probe.unreadable.get("numpy", ""), install)
    if exam.busy:
        yield Finding("unfit", "somebody else measures here", f"{exam.busy}; wait for it, or ask them")
    if exam.probe.emulated:
        yield Finding("unfit", f"an emulated processor ({exam.probe.emulated})", "what it is timed at is no board's")
    if exam.probe.virtual:
        why = "its clocks are not its own and its neighbours are not seen"
        yield Finding("warning", f"a virtual machine ({exam.probe.virtual})", why)


def _left(exam: Examination) -> Iterator[Finding]:
    if exam.healed is None:
        return
    story = f"{exam.healed.who} ended uncleanly in {exam.healed.asked}"
    if exam.healed.problems:
        why = f"{story}; {'; '.join(exam.healed.problems)}"
        yield Finding("unfit", "a power mode was left behind", why, "; ".join(exam.healed.commands))
    else:
        yield Finding("note", "a power mode was left behind", f"{story}; it is put back now")


def _clocks(exam: Examination, target: Target | None) -> Iterator[Finding]:
    state, jetson = exam.state, exam.state.power_mode is not None
    loose = [name for name, clock in (state.clocks or {}).items() if name.startswith(("cpu", "gpu")) and not clock.pinned]
    if state.clocks is None:
        why = state.unreadable.get("clocks", "")
        yield Finding("warning", "the clocks can be neither read nor held", f"{why}; that they stood still cannot be told")
    elif jetson and loose:
        why = f"{', '.join(loose)} may move with load and heat; bench --pin-clocks holds them for the run alone"
        yield Finding("unfit", "the clocks are free", why, "sudo jetson_clocks")
    elif not jetson and state.governor is not None and state.governor != "performance":
        why = f"the governor {state.governor} moves them with the load; bench --pin-clocks holds them for the run alone"
        yield Finding("unfit", "the clocks are free", why, GOVERNOR)
    if state.turbo:
        command = "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        if "Intel" not in (exam.probe.cpu_model or ""):
            command = "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        yield Finding("warning", "turbo is on", "the clock depends on how warm it is", command)
    if state.power_mode and target and target.mode and target.mode.prefer:
        yield from _mode(exam, state.power_mode.name, target.mode.prefer)


def _mode(exam: Examination, current: str, prefer: list[str]) -> Iterator[Finding]:
    known = exam.probe.power_modes or {}
    best = next((name for name in prefer if name in known), None)
    if best and best != current:
        why = f"{best} is the fastest, and figures of one say nothing of another; bench --power-mode sets one for the run alone"
        yield Finding("note", f"in power mode {current}", why, f"sudo nvpmodel -m {known[best]}")


def _throttle(state: State) -> Iterator[Finding]:
    for reason in stability.throttled_now(state):
        supply = "under-voltage" in reason
        yield Finding(
            "unfit", reason, "the supply or its cable is too weak" if supply else f"too hot, or it draws too much; {COOL}"
        )
    since = [
        f"{name} {sign.value}"
        for name, sign in (state.throttle or {}).items()
        if sign.kind == "count" and sign.fatal and sign.value > 0
    ]
    if since:
        why = "a flag that is set until the next boot cannot tell of another time" if "since boot" in " ".join(since) else ""
        yield Finding("warning", f"it has throttled since it booted: {', '.join(since[:6])}", why, "sudo reboot" if why else "")
    if state.throttle is None:
        yield Finding("warning", "throttling cannot be noticed", state.unreadable.get("throttle", ""))
    hot = [f"{zone} {value:.0f} C" for zone, value in (state.temperature_c or {}).items() if value >= HOT_C]
    if hot:
        yield Finding("warning", "it is hot", f"{', '.join(hot)}; {COOL}")


def _load(state: State) -> Iterator[Finding]:
    total = sum(one.cpu_percent for one in state.busy)
    if total >= BUSY_WARNING:
        names = ", ".join(f"{one.name} ({one.pid}) {one.cpu_percent:.0f} %" for one in state.busy if one.cpu_percent >= 1)
        pids = ",".join(str(one.pid) for one in state.busy if one.cpu_percent >= 1)
        severity: Literal["unfit", "warning"] = "unfit" if total >= BUSY_UNFIT else "warning"
        yield Finding(severity, f"others take {total:.0f} % of a core", f"{names}; end what is not needed", f"ps -fp {pids}")
    for name in state.disturbing:
        if name in INSTALLERS:
            yield Finding("warning", f"{name} is running", "it takes processor and disk; wait until it has ended")
        elif name in MONITORS:
            yield Finding("warning", f"{name} is running", "a monitor takes the processor now and then", MONITORS[name])
        else:
            why = "a desktop takes the GPU and memory now and then; end it before the clocks are held, as this releases them"
            yield Finding("warning", f"{name} is running", why, "sudo systemctl isolate multi-user.target")
    if state.agents:
        yield Finding("warning", f"{state.agents} other agents of this toolchain run here", "somebody may be at work")
    for user in state.accelerator_users or []:
        why = f"it holds {user.device}; end what is not needed"
        yield Finding("warning", f"{user.name} uses the accelerator", why, f"ps -fp {user.pid}")


def _room(state: State) -> Iterator[Finding]:
    memory, disk = state.memory_free_bytes, state.disk_free_bytes
    if memory is not None and memory < LITTLE_MEMORY:
        why = "engines may be killed; end what is not needed"
        command = "ps aux --sort=-rss | head"
        yield Finding("unfit" if memory < NO_MEMORY else "warning", f"{memory // MIB} MiB of memory free", why, command)
    if state.swap_total_bytes and state.swap_free_bytes is not None:
        used = state.swap_total_bytes - state.swap_free_bytes
        if used > SWAP_USED:
            why = "pages that come back from the disk look like slow inferences"
            yield Finding("warning", f"{used // MIB} MiB are swapped out", why, "sudo swapoff -a && sudo swapon -a")
    if disk is not None and disk < LITTLE_DISK:
        why = "engines and samples need room; toolchain host clean takes the agent's own folder away"
        yield Finding("unfit" if disk < NO_DISK else "warning", f"{disk // MIB} MiB of disk free", why, "df -h")


def _hardware(probe: Probe, state: State) -> Iterator[Finding]:
    if state.supply_ma is not None and state.supply_ma < FULL_SUPPLY_MA:
        why = f"it agreed to {state.supply_ma} mA of {FULL_SUPPLY_MA}: under-voltage under load; use the one made for the board"
        yield Finding("warning", "the supply is weak", why)
    for name, link in (state.pcie_links or {}).items():
        speed = link.split()[0]
        if speed.replace(".", "", 1).isdigit() and float(speed) < GENERATION_3_GT_S:
            command = "echo dtparam=pciex1_gen=3 | sudo tee -a /boot/firmware/config.txt && sudo reboot"
            yield Finding("warning", f"{name} is linked at {link}", "PCIe generation 3 gives 8 GT/s", command)
    if state.on_battery:
        yield Finding("warning", "it runs on its battery", "clocks are then often lowered; plug it in")


def _power(exam: Examination) -> Iterator[Finding]:
    if exam.no_power is None:
        return
    fix = next((reading.fix for reading in exam.power if not reading.readable and reading.fix), "")
    command = fix if fix.startswith("sudo ") else ""
    why = exam.no_power if command or not fix else f"{exam.no_power}; {fix}"
    yield Finding("note", "energy would be: not measured", why, command)


def _clock_offset(exam: Examination) -> Iterator[Finding]:
    if abs(exam.clock.unix_s) > OFFSET_S + exam.clock.error_s:
        why = f"{exam.clock.unix_s:+.1f} s from this host's; stamps of an external meter would not fit"
        yield Finding("note", "its clock is off", why, "sudo timedatectl set-ntp true")
