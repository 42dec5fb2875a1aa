"""The report: well-formed, loads nothing, escapes everything, and says what is not there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.timed import timed
from toolchain.errors import RunFolderError
from toolchain.report.html import write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}
EVIL = "<script>alert(1)</script>"
MINIMAL = {"title": "nothing", "created": "today", "command": "toolchain demo"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on an end tag that does not close the innermost open one."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(summary: dict[str, Any], folder: Path) -> tuple[str, Page]:
    write_report(summary, folder / "report.html")
    html = (folder / "report.html").read_text()
    parsed = Page(html)
    assert parsed.open == []
    return html, parsed


def assert_loads_nothing(html: str, parsed: Page) -> None:
    assert not LOADING & {name for name, _ in parsed.attributes}
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(parsed.tags)
    assert not re.search(r"url\(|@import|https?://", html)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert "default-src 'none'" in html


def test_a_whole_report_is_well_formed_small_and_loads_nothing(tmp_path: Path, summary: dict[str, Any]) -> None:
    html, parsed = page(summary, tmp_path)
    assert_loads_nothing(html, parsed)
    assert len(html.encode()) < 500_000
    assert html.count("<svg") == html.count("</svg>") == 8  # four pictures, each for a desk and for a phone


def test_the_headline_says_what_came_out(tmp_path: Path, summary: dict[str, Any]) -> None:
    _, parsed = page(summary, tmp_path)
    assert (
        "pruned + INT8 is 3.00× as fast as dense (95 % interval 2.80–3.20): 1.50 ms against 4.50 ms at the median." in parsed.text
    )
    assert "Its mAP50-95 is 0.690 against 0.730 (−4.0 points), with 8.3 % of the size and 35 % of the MACs." in parsed.text


@pytest.mark.parametrize(
    ("speedup", "interval", "words"),
    [
        (0.8, [0.7, 0.9], "is slower than dense"),
        (1.05, [0.95, 1.1], "No difference in speed between pruned + INT8 and dense could be shown"),
        (1.4, None, "without an interval"),
    ],
)
def test_the_headline_does_not_call_every_result_faster(
    tmp_path: Path, summary: dict[str, Any], speedup: float, interval: list[float] | None, words: str
) -> None:
    summary["variants"][1] |= {"speedup": speedup, "speedup_interval": interval}
    _, parsed = page(summary, tmp_path)
    assert words in parsed.text
    assert "as fast as dense" not in parsed.text


def test_doubts_stand_beside_the_headline(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["bench"] |= {"valid": False, "reasons": ["the A/A control failed"]}
    summary["diagnosis"].append({"title": "noise", "severity": "problem", "numbers": {"n": None}, "next": "wait"})
    _, parsed = page(summary, tmp_path)
    assert "No speed-up can be claimed, the timing is not valid: the A/A control failed." in parsed.text
    assert "Not to be quoted: pruned + INT8 is 3.00×" in parsed.text
    assert "median latency" not in parsed.text  # no large number of what must not be quoted
    assert "The diagnosis lists a problem." in parsed.text


def test_shows_what_makes_the_numbers_true(tmp_path: Path, summary: dict[str, Any]) -> None:
    _, parsed = page(summary, tmp_path)
    facts = ["9f" * 32, "ab" * 32, "board cpu", "CPUExecutionProvider", "1.32.0", "images also trained on none", "split test"]
    facts += ["output layer", "rounds 15", "governor not recorded", "openvino not installed", "2 min 05 s", "sha256sum --check"]
    facts += ["toolchain run demo.toml --budget latency=0.5x", "kept, macs 38.0 %", "kept, channels not recorded"]
    facts += ["Why each group has its width: stages/cut/select.html"]
    assert [fact for fact in facts if fact not in parsed.text] == []


def test_classes_that_lost_most_come_first(tmp_path: Path, summary: dict[str, Any]) -> None:
    _, parsed = page(summary, tmp_path)
    section = parsed.text.split("Accuracy of each class")[1]
    assert section.index("star") < section.index("disc")


def test_many_classes_fold_away(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["variants"][0]["per_class"] = {f"class{number}": 0.5 for number in range(80)}
    html, parsed = page(summary, tmp_path)
    assert "<details>" in html
    assert "class79" in parsed.text


def test_names_and_paths_from_outside_are_text(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["title"] = summary["command"] = summary["model"]["source"] = summary["data"]["yaml"] = EVIL
    summary["model"]["names"] = {"0": EVIL}
    summary["variants"][1]["label"] = f"x{EVIL}"
    summary["variants"][1]["per_class"] = {EVIL: 0.5}
    summary["bench"]["engines"][0]["label"] = EVIL
    summary["bench"]["device"] = {EVIL: f'" onload="{EVIL}'}
    summary["layers"][0] |= {"name": f'"><img src=x>{EVIL}', "reason": EVIL}
    summary["sensitivity"][0]["group"] = summary["stages"][0]["name"] = EVIL
    summary["diagnosis"] = [{"title": EVIL, "severity": "problem", "numbers": {EVIL: EVIL}, "next": EVIL}]
    html, parsed = page(summary, tmp_path)
    assert_loads_nothing(html, parsed)
    assert "<script" not in html
    assert parsed.text.count(EVIL) > 12


def test_the_smallest_summary_says_what_is_missing(tmp_path: Path) -> None:
    html, parsed = page(MINIMAL, tmp_path)
    assert_loads_nothing(html, parsed)
    assert "Nothing was measured in this run." in parsed.text
    parts = ["no variant was measured", "no check was made", "no latency was measured", "no network was cut"]
    parts += ["sensitivity was not measured", "the network was not fine-tuned", "accuracy was not measured for each class"]
    parts += ["no stage was recorded", "it takes two variants with both a latency and an mAP"]
    assert [part for part in parts if f"Not in this run: {part}" not in parsed.text] == []


@pytest.mark.parametrize(
    "part", ["model", "data", "variants", "layers", "prune", "training", "sensitivity", "bench", "int8", "versions"]
)
def test_any_part_may_be_absent(tmp_path: Path, summary: dict[str, Any], part: str) -> None:
    del summary[part]
    html, parsed = page(summary, tmp_path)
    assert_loads_nothing(html, parsed)
    assert "Not in this run" in parsed.text or part in ("model", "data")


def test_a_missing_value_is_a_dash_with_a_note(tmp_path: Path, summary: dict[str, Any]) -> None:
    final = summary["variants"][1]
    for name in ("latency_ms", "latency_interval_ms", "speedup", "speedup_interval", "map50_95"):
        del final[name]
    final["why"] = {"latency_ms": "the link was lost", "map50_95": "no labels"}
    _, parsed = page(summary, tmp_path)
    assert "pruned + INT8: latency, speed-up not measured: the link was lost" in parsed.text
    assert "The mAP50-95 of pruned + INT8 was not measured: no labels" in parsed.text
    assert "it takes two variants" in parsed.text


@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_raw_samples_may_lie_in_a_file(tmp_path: Path, summary: dict[str, Any], suffix: str) -> None:
    values = [2.0 + 0.01 * step for step in range(400)]
    path = tmp_path / f"samples{suffix}"
    if suffix == ".npy":
        np.save(path, np.array(values))
    else:
        path.write_text(json.dumps(values))
    found = {"latency_ms": timed("", values)["latency_ms"]}
    summary["bench"]["engines"] = [
        {"label": "dense", "samples_path": path.name, **found},
        {"label": "gone", "samples_path": "nowhere.json", **found},
    ]
    _, parsed = page(summary, tmp_path)
    assert "raw latencies of gone: no file nowhere.json" in parsed.text


def test_percentiles_that_few_samples_cannot_bound_are_not_printed(tmp_path: Path, summary: dict[str, Any]) -> None:
    summary["bench"]["engines"] = [timed("dense", [4.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0])]
    _, parsed = page(summary, tmp_path)
    assert "dense 7 4.00 1.50–6.50 – – – 7.00 0" in parsed.text


def test_percentiles_are_those_of_the_benchmark(tmp_path: Path, summary: dict[str, Any]) -> None:
    """It knows how far its samples depend on each other, which the page cannot tell from the samples alone."""
    engine = timed("dense", [2.0 + 0.01 * step for step in range(400)])
    for name, value in {"p50": 3.99, "p90": 5.59, "p95": 5.79}.items():
        engine["latency_ms"][name] = {"value": value, "low": value - 1, "high": value + 1, "reason": None}
    engine["latency_ms"]["p95"] |= {"low": None, "high": None, "reason": "too few blocks"}
    engine["latency_ms"]["p99"] = {"value": None, "low": None, "high": None, "reason": "400 samples tell as much as 40"}
    summary["bench"]["engines"] = [engine]
    _, parsed = page(summary, tmp_path)
    assert "dense 400 3.99 2.99–4.99 5.59 4.59–6.59 5.79 – 5.99 0" in parsed.text


def test_an_engine_without_its_statistics_is_refused(tmp_path: Path, summary: dict[str, Any]) -> None:
    del summary["bench"]["engines"][0]["latency_ms"]
    with pytest.raises(RunFolderError, match="latency_ms"):
        write_report(summary, tmp_path / "report.html")


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, "x"], [], {"a": 1}])
def test_damaged_samples_are_refused(tmp_path: Path, summary: dict[str, Any], values: Any) -> None:
    (tmp_path / "s.json").write_text(json.dumps(values))
    summary["bench"]["engines"] = [{"label": "dense", "samples_path": "s.json", "latency_ms": timed("", [1.0])["latency_ms"]}]
    with pytest.raises(RunFolderError, match=r"dense|cannot be read"):
        write_report(summary, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
