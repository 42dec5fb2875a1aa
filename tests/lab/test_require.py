"""A tier that cannot run says why, and fails where it may not be skipped."""

from __future__ import annotations

import pytest

from tests.lab import require
from tests.lab.network import can_make_networks


def test_skips_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_REQUIRED", "A, C")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="tier B of the lab cannot run here: it needs root"):
        can_make_networks()


def test_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_REQUIRED", "A, B")
    with pytest.raises(pytest.fail.Exception, match=r"tier B, but .*no-such-program \(apt-get install some-package\)"):
        require.needs_programs("B", no_such_program="some-package", sh="dash")


def test_a_tier_is_not_another_that_begins_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LAB_REQUIRED", "A+")
    assert require.required("A+")
    assert not require.required("A")
