r"""A test for parroting: a guide whose final answer is wrong.

Shown an expert solution with another answer in its place, a policy that re-solves ends with the true answer; one that
parrots ends with the wrong one. Only numeric answers have a plausible neighbour, so other problems are skipped.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Any, Literal

from ossft_ray.common.latex import find_boxes
from ossft_ray.method.metrics import standard_error

Outcome = Literal["followed", "correct", "other", "skipped"]  # "followed": the response ends with the wrong answer

_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?")
_FRACTION = re.compile(r"([-−]?\\[dt]?frac\{|[-−]?)(\d+)(\}\{|/)(\d+)(\}?)")
_TAIL = re.compile(r"(####[ \t]*)([^\n]*\S)[ \t]*\Z")
_LARGEST_STEP = 9  # by which a whole number changes: small enough to be plausible


@dataclass(frozen=True)
class CorruptedGuide:
    """An expert solution that ends with a wrong answer."""

    solution: str
    wrong_answer: str


def corrupt(expert_solution: str, answer: str, rng: random.Random) -> CorruptedGuide | None:
    r"""The expert solution with another number as its final answer, or None if that is impossible.

    The last box or the `####` tail is replaced, and so are all other occurrences of the number in the same line. A
    dollar or percent sign stays. None if the answer is not a number (or a fraction of whole numbers), or if the
    solution does not mark its answer.

    >>> corrupt("48 + 24 = 72\n#### 72", "72", random.Random(0))
    CorruptedGuide(solution='48 + 24 = 72\n#### 79', wrong_answer='79')
    """
    text = expert_solution.rstrip()
    if boxes := find_boxes(text):
        start, end = boxes[-1]
    elif tail := _TAIL.search(text):
        start, end = tail.span(2)
    else:
        return None
    stated = text[start:end]
    wrong = _nearby_answer(stated.strip(), rng)
    if wrong is None or _nearby_answer(answer.strip(), random.Random(0)) is None:
        return None
    line_start = text.rfind("\n", 0, start) + 1
    number, wrong_number = _number_in(stated), _number_in(wrong)
    elsewhere = re.compile(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)")
    before, after = (elsewhere.sub(lambda _: wrong_number, part) for part in (text[line_start:start], text[end:]))
    return CorruptedGuide(text[:line_start] + before + wrong + after, wrong)


def summarise_outcomes(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts of a sample of problems, and the share that followed the wrong answer with its standard error."""
    followed = [float(outcome == "followed") for outcome in outcomes if outcome != "skipped"]
    return {
        "problems": len(outcomes),
        "samples": len(followed),
        **{name: outcomes.count(name) for name in ("followed", "correct", "other", "skipped")},
        "followed_share": fmean(followed) if followed else None,
        "stderr": standard_error(followed) if followed else None,
    }


def _number_in(stated: str) -> str:
    """The number or fraction of an answer, without currency or percent sign."""
    found = _FRACTION.search(stated) or _NUMBER.search(stated)
    assert found is not None
    return found[0]


def _nearby_answer(stated: str, rng: random.Random) -> str | None:
    """Another number close to the stated one and in the same notation; None if the answer is not a single number."""
    bare = re.sub(r"\\[,!; ]|\\?[$%]|\s", "", stated)
    if fraction := _FRACTION.fullmatch(bare):
        opening, top, middle, bottom, closing = fraction.groups()
        numerator = int(top)
        while numerator == int(top):
            numerator = max(1, int(top) + rng.randint(1, _LARGEST_STEP) * rng.choice((-1, 1)))
        written = _FRACTION.search(stated)
        return stated.replace(written[0], f"{opening}{numerator}{middle}{bottom}{closing}") if written else None
    if not _NUMBER.fullmatch(bare) or (found := _NUMBER.search(stated)) is None:
        return None
    sign, digits = ("-", found[0][1:]) if found[0][0] in "-−" else ("", found[0])
    whole, _, decimals = digits.replace(",", "").partition(".")
    old = new = int(whole + decimals)  # in units of the last decimal
    while new == old:
        new = abs(old + rng.randint(1, _LARGEST_STEP) * rng.choice((-1, 1)))
    value = Decimal(f"{new}E-{len(decimals)}")
    return stated.replace(found[0], sign + (f"{value:,f}" if "," in digits else f"{value:f}"))
