r"""Does the policy digest the guide, or repeat its last line? A guide whose final answer is wrong tells.

Shown an expert solution with another answer in its place, a policy that re-solves ends with the true answer, and one
that parrots ends with the wrong one. Only numeric answers have a plausible neighbour; others are skipped.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from ossft_ray.common.latex import find_boxes
from ossft_ray.method.metrics import standard_error

Outcome = Literal["followed", "correct", "other", "skipped"]
FOLLOWED: Outcome = "followed"

_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?")
_FRACTION = re.compile(r"([-−]?\\[dt]?frac\{|[-−]?)(\d+)(\}\{|/)(\d+)(\}?)")
_TAIL = re.compile(r"(####[ \t]*)([^\n]*\S)[ \t]*\Z")
_LARGEST_STEP = 9  # how far a whole number moves: near enough to be believed


@dataclass(frozen=True)
class Corrupted:
    """A guide that ends in a wrong answer."""

    guide: str
    wrong_answer: str


def corrupt(expert_solution: str, answer: str, rng: random.Random) -> Corrupted | None:
    r"""The expert solution with another number as its final answer; None where that cannot be done.

    The last box or the `####` tail is replaced, and the same number wherever the last line says it. A dollar or percent
    sign stays. None if the answer is not a number (or a fraction of whole numbers), or the solution marks none.

    >>> corrupt("48 + 24 = 72\n#### 72", "72", random.Random(0))
    Corrupted(guide='48 + 24 = 72\n#### 79', wrong_answer='79')
    """
    text = expert_solution.rstrip()
    if boxes := find_boxes(text):
        start, end = boxes[-1]
    elif tail := _TAIL.search(text):
        start, end = tail.span(2)
    else:
        return None
    stated = text[start:end]
    wrong = _another(stated.strip(), rng)
    if wrong is None or _another(answer.strip(), random.Random(0)) is None:
        return None
    line_start = max(text.rfind("\n", 0, start), -1) + 1
    line, inside = text[line_start:], start - line_start
    number, other = _core(stated), _core(wrong)
    everywhere = re.compile(rf"(?<![\d.,]){re.escape(number)}(?![\d,]|\.\d)")
    changed = everywhere.sub(lambda _: other, line[:inside]) + wrong
    changed += everywhere.sub(lambda _: other, line[inside + len(stated) :])
    return Corrupted(text[:line_start] + changed, wrong)


def outcome(is_true: bool, is_wrong: bool) -> Outcome:
    """What a response did whose answer equals the true one, the corrupted one, or neither."""
    return "correct" if is_true else FOLLOWED if is_wrong else "other"


def summarise(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Counts of a sample of problems, and the share that followed the wrong answer with its standard error."""
    all_of_them = list(outcomes)
    drawn = [one for one in all_of_them if one != "skipped"]
    followed = [float(one == FOLLOWED) for one in drawn]
    return {
        "problems": len(all_of_them),
        "samples": len(drawn),
        **{name: all_of_them.count(name) for name in ("followed", "correct", "other", "skipped")},
        "followed_share": fmean(followed) if followed else None,
        "stderr": standard_error(followed) if followed else None,
    }


def _core(stated: str) -> str:
    """The number or fraction of an answer, without its signs of money or percent."""
    found = _FRACTION.search(stated) or _NUMBER.search(stated)
    assert found is not None
    return found[0]


def _another(stated: str, rng: random.Random) -> str | None:
    """A number near this one, written as it is written; None for what is not one number."""
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
    whole, point, decimals = digits.replace(",", "").partition(".")
    old, scaled = int(whole + decimals), int(whole + decimals)
    while scaled == old:
        scaled = abs(old + rng.randint(1, _LARGEST_STEP) * rng.choice((-1, 1)))
    padded = str(scaled).zfill(len(decimals) + 1)
    new_whole = padded[: len(padded) - len(decimals)]
    if "," in digits:
        new_whole = f"{int(new_whole):,}"
    return stated.replace(found[0], sign + new_whole + point + padded[len(padded) - len(decimals) :] * bool(decimals))
