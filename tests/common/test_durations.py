"""Durations as text."""

import pytest

from ossft_ray.common.durations import parse_duration


@pytest.mark.parametrize("text, seconds", [("3h45m", 13_500), ("90s", 90), ("2d", 172_800), ("1h1m1s", 3_661)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3 h", "3h-1m", "1.5h"])
def test_texts_that_are_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
