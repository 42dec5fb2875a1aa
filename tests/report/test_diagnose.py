"""Each check fires on the facts it is for, and stays quiet on healthy ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.report.diagnose import OutputFacts, Step, check_map, check_outputs, check_reached, output_facts
from toolchain.report.diagnose_latency import LayerTime, check_int8, check_latency, check_noise, why_not_faster
from toolchain.report.findings import Finding, by_severity

HEALTHY = OutputFacts(images=20, confident=400, max_score=0.92)


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def outputs(images: int = 3, score: float = 0.9) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    batch = rng.uniform(0, 0.1, (images, 6, 10)).astype(np.float32)
    batch[:, :4] *= 1000
    batch[:, 4, 0] = score
    return batch


def test_facts_of_healthy_outputs() -> None:
    facts = output_facts([outputs(), outputs(2, 0.5)])
    assert facts == OutputFacts(5, 5, pytest.approx(0.9), 0, False, False)


def test_facts_count_an_anchor_once_and_ignore_boxes() -> None:
    batch = np.zeros((2, 6, 10), dtype=np.float32)
    batch[0, :4] = 300.0
    batch[0, 4:, 3] = 0.8
    facts = output_facts([batch])
    assert (facts.confident, facts.max_score) == (1, pytest.approx(0.8))


def test_facts_of_broken_outputs() -> None:
    nan = outputs()
    nan[0, 5, 2] = np.nan
    nan[1, 0, 0] = np.inf
    assert output_facts([nan]).bad_values == 2
    assert output_facts([nan]).max_score == pytest.approx(0.9)
    assert output_facts([np.full((2, 6, 4), np.nan, dtype=np.float32)]).max_score is None
    assert output_facts([np.zeros((2, 6, 4), dtype=np.float32)]).all_zero
    assert output_facts([outputs(1), outputs(1)]).constant
    assert not output_facts([outputs(1)]).constant  # one picture cannot show it


def test_healthy_outputs_are_ok() -> None:
    assert only(check_outputs(HEALTHY, replace(HEALTHY, confident=350, max_score=0.85))).severity == "ok"


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"bad_values": 3}, "problem", "NaN"),
        ({"all_zero": True, "confident": 0, "max_score": 0.0}, "problem", "only zeros"),
        ({"constant": True}, "problem", "same for every picture"),
        ({"confident": 0, "max_score": 0.2}, "problem", "nothing above 0.25"),
        ({"confident": 3, "max_score": 0.3}, "warning", "collapsed"),
        ({"confident": 5000}, "warning", "nearly everywhere"),
    ],
)
def test_dead_outputs_are_named(change: dict[str, float], severity: str, words: str) -> None:
    finding = only(check_outputs(HEALTHY, replace(HEALTHY, **change)))
    assert finding.severity == severity
    assert words in finding.title
    assert finding.numbers["candidates above 0.25, dense"] == 400
    assert finding.next


def test_a_dense_network_that_finds_nothing_is_blamed_itself() -> None:
    blind = OutputFacts(20, 0, 0.1)
    assert "dense network itself" in only(check_outputs(blind, blind)).title


@pytest.mark.parametrize(
    ("steps", "blamed"),
    [
        ([("dense", 0.7), ("cut", 0.1), ("tuned", 0.4), ("int8", 0.39)], "the cut"),
        ([("dense", 0.7), ("tuned", 0.4)], "the cut"),
        ([("dense", 0.7), ("cut", 0.65), ("tuned", 0.3)], "fine-tuning"),
        ([("dense", 0.7), ("cut", 0.1), ("tuned", 0.68), ("int8", 0.3)], "INT8"),
        ([("dense", 0.7), ("int8", 0.3)], "INT8"),
    ],
)
def test_a_large_drop_names_the_step_that_lost_it(steps: list[tuple[Step, float]], blamed: str) -> None:
    finding = only(check_map(steps))
    assert finding.severity == "problem"
    assert finding.title.endswith(f"most of it by {blamed}")
    lost = [float(str(value).split()[0]) for name, value in finding.numbers.items() if name.startswith("lost by")]
    assert sum(lost) == pytest.approx((steps[0][1] - steps[-1][1]) * 100, abs=0.2)


def test_a_small_drop_is_ok_even_if_the_cut_alone_lost_all() -> None:
    finding = only(check_map([("dense", 0.7), ("cut", 0.0), ("tuned", 0.65), ("int8", 0.62)]))
    assert finding.severity == "ok"
    assert finding.numbers["drop"] == "8.0 points"
    assert check_map([("dense", 0.7)]) == []


CONV = LayerTime("model.2.cv1", "Conv", 1.0, 0.5, 32, 16, True, 8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"pruned_ms": 1.0, "kept_channels": 32}, "not pruned"),
        ({"pruned_ms": 1.2, "kept_channels": 13, "aligned": False}, "misaligned width"),
        ({"pruned_ms": 1.0, "stride": 2}, "large map, few channels"),
        ({"pruned_ms": 1.0, "op": "Concat"}, "copies or reorders data"),
        ({"pruned_ms": 1.0, "op": "MaxPool"}, "bound by memory"),
        ({"pruned_ms": 1.0}, "unexplained"),
    ],
)
def test_why_a_layer_is_not_faster(change: dict[str, float], reason: str | None) -> None:
    assert why_not_faster(replace(CONV, **change)) == reason


def test_latency_that_follows_size_is_ok() -> None:
    assert only(check_latency(0.4, 0.55, [CONV])).severity == "ok"
    assert only(check_latency(1.0, 1.02)).severity == "ok"  # nothing was cut: nothing to expect


def test_latency_that_stays_names_layers_and_reasons() -> None:
    profile = [
        replace(CONV, layer="stem", pruned_ms=1.0, stride=2),
        replace(CONV, layer="odd", dense_ms=2.0, pruned_ms=2.0, kept_channels=13, aligned=False),
        replace(CONV, layer="odd too", dense_ms=0.6, pruned_ms=0.6, kept_channels=13, aligned=False),
        replace(CONV, layer="tiny", dense_ms=0.001, pruned_ms=0.001, kept_channels=32),
        replace(CONV, layer="good"),
    ]
    finding = only(check_latency(0.4, 0.98, profile))
    assert finding.severity == "problem"
    assert finding.title == "Size fell but latency did not"
    reasons = [name for name in finding.numbers if name.startswith("time of layers")]
    assert reasons == ["time of layers: misaligned width", "time of layers: large map, few channels"]
    assert finding.numbers[reasons[0]] == "2.600 ms"
    assert finding.numbers["odd (Conv)"] == "2.000 → 2.000 ms, 32 → 13 channels: misaligned width"
    assert not any("good" in name or "tiny" in name for name in finding.numbers)
    assert "alignment" in finding.next


def test_latency_that_fell_a_little_is_a_warning_and_asks_for_a_profile() -> None:
    finding = only(check_latency(0.4, 0.85))
    assert finding.severity == "warning"
    assert "Profile both engines" in finding.next


def test_a_long_list_of_slow_layers_is_cut() -> None:
    profile = [replace(CONV, layer=f"l{number}", pruned_ms=1.0, kept_channels=32) for number in range(10)]
    assert only(check_latency(0.5, 1.0, profile)).numbers["further layers"] == 4


def test_int8_slower_and_costly() -> None:
    slower, costly = check_int8(14.1, 22.2, 0.55, 0.27, max_drop=0.02)
    assert (slower.severity, costly.severity) == ("problem", "problem")
    assert slower.numbers["times faster"] == "0.64"
    assert costly.numbers["drop"] == "28.0 points"


def test_int8_that_pays_is_ok_and_gaps_are_not_judged() -> None:
    assert [finding.severity for finding in check_int8(14.1, 7.8, 0.548, 0.543, max_drop=0.02)] == ["ok", "ok"]
    assert check_int8(14.1, None, None, 0.5) == []
    assert only(check_int8(None, None, 0.55, 0.53)).severity == "warning"


def test_noise() -> None:
    assert [finding.severity for finding in check_noise((0.98, 1.01), cv=0.01, drift=-0.01)] == ["ok"]
    assert [finding.severity for finding in check_noise((1.001, 1.016))] == ["ok"]  # leaves out 1, decides nothing
    assert [finding.severity for finding in check_noise((1.03, 1.08), cv=0.2, drift=-0.05)] == ["problem", "warning", "warning"]
    assert check_noise(None) == []


@pytest.mark.parametrize(
    ("asked", "reached", "severity", "words"),
    [
        (0.5, 0.51, "ok", "was reached"),
        (0.5, 0.6, "warning", "Less was cut"),
        (0.5, 0.4, "warning", "More was cut"),
        (0.5, None, "warning", "not known"),
    ],
)
def test_the_ratio_asked_for(asked: float, reached: float | None, severity: str, words: str) -> None:
    finding = only(check_reached("MACs ratio", asked, reached, alignment=8))
    assert finding.severity == severity
    assert words in finding.title


def test_problems_come_first_and_order_is_kept() -> None:
    findings = [
        Finding(title, severity) for title, severity in (("a", "ok"), ("b", "problem"), ("c", "warning"), ("d", "problem"))
    ]
    assert [finding.title for finding in by_severity(findings)] == ["b", "d", "c", "a"]


def test_findings_fit_the_summary() -> None:
    from toolchain.report.summary import FindingRow

    for finding in [*check_outputs(HEALTHY, HEALTHY), *check_map([("dense", 0.7), ("cut", 0.1)]), *check_reached("x", 0.5, None)]:
        assert FindingRow.model_validate(finding.to_dict()).title == finding.title
