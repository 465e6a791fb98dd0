"""The agreement of a verifier with labels, given by someone who read the responses."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

_LABELS = {"true": True, "correct": True, "1": True, "false": False, "wrong": False, "0": False}


@dataclass(frozen=True)
class Agreement:
    """Counts of labelled rows, by (label, verdict)."""

    counts: Counter[tuple[bool, bool]]

    def __str__(self) -> str:
        right = self.counts[True, True], self.counts[True, True] + self.counts[True, False]
        wrong = self.counts[False, False], self.counts[False, True] + self.counts[False, False]
        agreed = f"{right[0] + wrong[0]} of {self.counts.total()} labels"
        return f"{agreed}: accepted {right[0]} of {right[1]} right and refused {wrong[0]} of {wrong[1]} wrong responses"


def read_label(value: Any) -> bool | None:
    """The label of a cell: true or false, 1 or 0, correct or wrong; None if the cell is empty.

    Raises:
        ValueError: the cell holds something else.
    """
    if value is None or value == "":
        return None
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if (label := _LABELS.get(text.strip().lower())) is None:
        raise ValueError("a label is true or false, 1 or 0, correct or wrong")
    return label
