"""Targets in a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console, RenderableType

from toolchain.device.target import list_targets, load_target
from toolchain.report.target_table import target_page, targets_table


def shown(what: RenderableType, width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def bare(text: str) -> str:
    """Without the blanks that only make columns."""
    return re.sub(r"\s+", "", text)


def texts(value: Any) -> Iterator[str]:
    """Every text a target holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def test_all_targets_fit_80_columns() -> None:
    targets = [load_target(name).to_json() for name in list_targets()]
    text = shown(targets_table(targets), 80)
    assert "…" not in text
    for target in targets:
        assert target["name"] in text
    (thor,) = re.findall(r".*jetson-thor-t5000.*\n.*", text)
    for word in ("onnxruntime", "tensorrt", "fp32 fp16", "bf16 int8", "module", "no", "NVIDIA Jetson Thor T5000"):
        assert word in thor
    assert re.search(r"raspberry-pi-4 .* external meter +no", text)
    assert re.search(r"host-cpu .* cpu_package +yes", text)


@pytest.mark.parametrize("name", ["jetson-agx-orin-64gb", "jetson-xavier-nx", "raspberry-pi-5-hailo-8l", "rk3588", "nvidia-dgpu"])
def test_the_page_leaves_nothing_out(name: str) -> None:
    target = load_target(name).to_json()
    page = bare(shown(target_page(target), 2000))
    known = {"+", "total", "info", "read", "measure"}  # shown in words
    missing = [text for text in texts(target) if bare(text) not in page and text not in known]
    assert missing == []
    assert "notverifiedonhardware" in page


def test_the_page_shows_what_matters_of_power() -> None:
    page = bare(shown(target_page(load_target("jetson-agx-orin-64gb").to_json()), 200))
    assert "summedintothetotal:VDD_GPU_SOC,VDD_CPU_CV,VIN_SYS_5V0" in page
    assert "recordedonly:VDDQ_VDD2_1V8AO" in page
    assert "refresh:toldbythedriver;polledupto5Hz" in page
    assert "notmeasured:no_sensor" in bare(shown(target_page(load_target("rk3588").to_json()), 200))
    assert "needsroot" in bare(shown(target_page(load_target("intel-n100").to_json()), 200))


def test_the_page_is_readable_at_80_columns() -> None:
    text = shown(target_page(load_target("jetson-nano").to_json()), 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
