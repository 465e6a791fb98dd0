import os
import signal
from pathlib import Path

import pytest

from ossft_ray.common.durations import parse_duration
from ossft_ray.common.storage import Folder
from ossft_ray.stages.train.stopping import StopRequest, at_sigterm, is_stop_requested


@pytest.mark.parametrize("text, seconds", [("3h45m", 13_500), ("90s", 90), ("2d", 172_800), ("1h1m1s", 3_661)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3 h", "3h-1m", "1.5h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_asks_when_the_time_is_over_and_not_before(tmp_path: Path) -> None:
    folder, now = Folder.at(str(tmp_path)), [100.0]
    request = StopRequest(folder, "1m", lambda: now[0])
    for now[0], expected in ((100.0, False), (159.9, False), (160.0, True), (170.0, True)):
        request.poll()
        assert is_stop_requested(folder) == expected
    request.clear()
    assert not is_stop_requested(folder)


def test_an_old_request_is_forgotten(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    StopRequest(folder, None).ask("SIGTERM")
    assert is_stop_requested(folder)
    StopRequest(folder, None)
    assert not is_stop_requested(folder)


def test_sigterm_asks_and_is_itself_again_afterwards(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    request, before = StopRequest(folder, None), signal.getsignal(signal.SIGTERM)
    with at_sigterm(request):
        os.kill(os.getpid(), signal.SIGTERM)
    assert is_stop_requested(folder) and request.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before
