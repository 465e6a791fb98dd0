"""The request to stop, and when it is due."""

import os
import signal

from ossft_ray.stages.train.stopping import StopRequest


def test_a_stop_is_due_once_the_time_is_over_and_not_before() -> None:
    now = [100.0]
    request = StopRequest("1m", lambda: now[0])
    for now[0], expected in ((100.0, False), (159.9, False), (160.0, True), (170.0, True)):
        assert request.is_due == expected


def test_sigterm_makes_a_stop_due_and_its_handler_is_restored() -> None:
    request, before = StopRequest(None), signal.getsignal(signal.SIGTERM)
    with request.at_sigterm():
        assert not request.is_due
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.is_due
    assert signal.getsignal(signal.SIGTERM) == before
