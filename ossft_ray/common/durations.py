"""Durations as text, in both directions."""

import re

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """A duration in seconds.

    Raises:
        ValueError: the text is not a duration.

    >>> parse_duration("3h45m"), parse_duration("90s")
    (13500.0, 90.0)
    """
    parts = re.findall(r"(\d+)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration such as 3h45m, 90m or 30s: {text}")
    return float(sum(int(number) * _SECONDS[unit] for number, unit in parts))


def duration(seconds: float) -> str:
    """A duration as text, in its two largest units.

    >>> duration(42), duration(200), duration(7500)
    ('42 s', '3 min 20 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
