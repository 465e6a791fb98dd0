"""The request to stop: when it is due, and durations."""

import os
import signal

import pytest

from ossft_ray.common.durations import parse_duration
from ossft_ray.stages.train.stopping import StopRequest


@pytest.mark.parametrize("text, seconds", [("3h45m", 13_500), ("90s", 90), ("2d", 172_800), ("1h1m1s", 3_661)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3 h", "3h-1m", "1.5h"])
def test_texts_that_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_it_is_due_when_the_time_is_over_and_not_before() -> None:
    now = [100.0]
    request = StopRequest("1m", lambda: now[0])
    for now[0], expected in ((100.0, False), (159.9, False), (160.0, True), (170.0, True)):
        assert request.is_due == expected


def test_sigterm_makes_it_due_and_has_its_own_effect_again_afterwards() -> None:
    request, before = StopRequest(None), signal.getsignal(signal.SIGTERM)
    with request.at_sigterm():
        assert not request.is_due
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.is_due
    assert signal.getsignal(signal.SIGTERM) == before
