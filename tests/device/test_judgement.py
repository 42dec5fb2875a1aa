"""What a benchmark's states and samples say about whether it may be believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.device.test_stability import QUIET, sign
from toolchain.device import judgement
from toolchain.device.pace import PACES, pace_of
from toolchain.device.samples import Samples
from toolchain.errors import UnknownNameError, UsageError
from toolchain.measurement.stats import Ratio, summarize

STEADY = {"runs": 60, "seconds": 6.0, "stopped": "steady", "change": 0.0}


def state(at_s: float, **changes: Any) -> dict[str, Any]:
    return {**QUIET, "monotonic_s": at_s, **changes}


def session(*between: dict[str, Any], after: dict[str, Any] | None, before: dict[str, Any] | None = None) -> dict[str, Any]:
    states = [{"rounds": number + 1, "state": one} for number, one in enumerate(between)]
    return {
        "state_before": before or state(0),
        "states": states,
        "state_after": after,
        "mismatches": [],
        "cool_down": {},
        "device": {"emulated": None},
    }


def throttle(value: int) -> dict[str, Any]:
    return {"throttle": {"soctherm oc1": sign("count", value)}}


def test_quiet_device() -> None:
    assert judgement.moved([session(state(1), state(2), after=state(3))]) == []
    assert judgement.notes([session(after=state(3))]) == ()


def test_a_counter_that_grew_is_told_once_with_its_largest_growth() -> None:
    before = state(0, **throttle(3))
    found = judgement.moved(
        [session(state(1, **throttle(4)), state(2, **throttle(9)), before=before, after=state(3, **throttle(9)))]
    )
    assert found == ["the device throttled: soctherm oc1 went from 3 to 9"]


def test_what_came_and_went_between_the_rounds_is_seen() -> None:
    live = {"throttle": {"cpu-throttle-alert": sign("live", 1)}}
    still = {"throttle": {"cpu-throttle-alert": sign("live", 0)}}
    (reason,) = judgement.moved([session(state(1, **live), before=state(0, **still), after=state(2, **still))])
    assert "cpu-throttle-alert" in reason
    assert "during the measurement" in reason


def test_lost_link_alone_is_no_reason() -> None:
    lost, whole = session(state(1), after=None), session(before=state(5), after=state(9))
    assert judgement.moved([lost, whole]) == []
    assert judgement.moved([whole, lost]) == ["no state of the device after the benchmark"]


def test_reboot_between_two_sessions_counts_only_when_settings_changed() -> None:
    lost = session(state(1, **throttle(0)), before=state(0, **throttle(0)), after=None)
    same = session(before=state(5, boot_id="b", **throttle(7)), after=state(9, boot_id="b", **throttle(7)))
    assert judgement.moved([lost, same]) == []
    other = {"boot_id": "b", "governor": "powersave"}
    (reason,) = judgement.moved([lost, session(before=state(5, **other), after=state(9, **other))])
    assert "governor changed" in reason
    assert "between two sessions" in reason


def test_another_device_than_the_one_named_is_noted() -> None:
    one = {**session(after=state(3)), "mismatches": ["architecture x86_64, expected aarch64"]}
    assert "not the device named: architecture x86_64, expected aarch64" in judgement.notes([one])


def test_a_start_at_another_temperature_is_noted() -> None:
    one = {**session(after=state(3)), "cool_down": {"flag": "started at another temperature"}}
    assert judgement.notes([one]) == ("started at another temperature",)


def samples(*stopped: str) -> Samples:
    return Samples("one", "0" * 64, Path("one.json"), rounds=[{"stopped": word} for word in stopped or ("enough",)])


def test_flags_of_a_quiet_machine_are_none() -> None:
    values = np.random.default_rng(1).normal(10, 0.05, 900)
    latency = replace(summarize(values, [100] * 9), dependence=None)
    assert judgement.flags_of(latency, samples(), STEADY, 2, 2) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cv": 0.2}, "varies by 20.0%"),
        ({"drift": -0.03}, "drifted by -3.0%"),
        ({"lag1": 0.4, "dependence": "neighbours"}, "correlated (0.40): the intervals are wider for it"),
        ({"dependence": "passes"}, "the passes differ by more than chance: the intervals are wider for it"),
        ({"lag1": 0.4, "dependence": "neighbours", "interval": "none"}, "correlated (0.40): no intervals"),
        ({"slow_count": 3}, "3 of 900 samples above twice the median"),
    ],
)
def test_flags_of_the_samples(change: dict[str, Any], words: str) -> None:
    quiet = {"cv": 0.001, "drift": 0.0, "lag1": 0.0, "dependence": None, "interval": "blocks", "slow_count": 0}
    latency = replace(summarize(np.random.default_rng(1).normal(10, 0.05, 900)), **{**quiet, **change})
    (flag,) = judgement.flags_of(latency, samples(), STEADY, 2, 2)
    assert words in flag


def test_flags_of_threads_warm_up_and_passes() -> None:
    latency = replace(summarize(np.linspace(10, 10.01, 900)), drift=0.0, lag1=0.0, dependence=None)
    warmup = {**STEADY, "stopped": "cap", "seconds": 60.2, "change": 0.034}
    found = judgement.flags_of(latency, samples("enough", "cap", "full"), warmup, 4, 2)
    for words in ("4 threads on 2 cores", "given up after 60 s", "+3.4%", "2 of 3 passes ended"):
        assert sum(words in flag for flag in found) == 1, words


def test_control_that_is_not_one() -> None:
    assert judgement.noise(None) == []
    assert judgement.noise(Ratio(1.0, 0.99, 1.01, 9)) == []
    assert "too noisy" in judgement.noise(Ratio(1.1, 1.05, 1.2, 9))[0]
    assert "could not be judged" in judgement.noise(Ratio(1.0, None, None, 2, "2 rounds are too few"))[0]


def test_drift_makes_only_a_report_invalid() -> None:
    drifting = {"one": summarize(np.linspace(10, 11, 900)), "two": summarize(np.full(900, 5.0))}
    assert judgement.drift_in_report(PACES["search"], drifting) == []
    (reason,) = judgement.drift_in_report(PACES["report"], drifting)
    assert reason.startswith("one drifted by +")


def test_profiles_keep_to_the_method() -> None:
    search, report = PACES["search"], PACES["report"]
    assert 3 <= search.rounds * search.pass_s <= 10
    assert report.rounds * report.pass_s >= 60
    assert report.rounds * report.runs >= 1000
    assert report.rounds * report.cap_s <= 600
    for pace in (search, report):
        assert pace.warmup_runs >= 50
        assert pace.warmup_s >= 5
        assert pace.settle_cap_s > pace.warmup_s
        assert pace.post_s >= 2
        assert pace.rounds >= 6
    assert report.end_to_end


def test_a_changed_profile_says_what_was_changed() -> None:
    pace = pace_of("report", rounds=12, runs=112, end_to_end=None)
    assert (pace.name, pace.rounds, pace.changed) == ("report", 12, ("rounds",))
    assert pace.of_a_round() == PACES["report"].of_a_round()
    with pytest.raises(UnknownNameError, match="report"):
        pace_of("reprot")
    with pytest.raises(UsageError, match="rounds"):
        pace_of("quick", rounds=0)
