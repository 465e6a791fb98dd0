r"""Acceptance of responses: finished, correct and, if the policy saw a guide, not giving it away.

A guided response gives its guide away by mentioning it or by copying from it. A phrase counts as a mention when its
words occur in the text as whole words, regardless of case, white space and emphasis:

| response                               | found                | rule                                          |
|----------------------------------------|----------------------|-----------------------------------------------|
| `As the **Provided\nSolution** shows`  | `provided solution`  | case, white space, emphasis, quotation marks  |
| `unprovided solutions`                 |                      | parts of words do not count                   |
| `the provided solution set is empty`   |                      | a longer term of mathematics (`LONGER_TERMS`) |
| `a solution is given by x = 2`         |                      | no default phrase is ordinary mathematics     |

Copying is measured in words: runs of letters, numbers (1,000 is 1000), LaTeX commands, and single characters of scripts
without spaces. Case, symbols, punctuation, layout commands and GSM8K's `<<48/2=24>>` notes do not count.
"""

import dataclasses
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache

from ossft_ray.common.prompt_templates import REFERENCE_PHRASES
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.common.verdict import (
    CONTAINS_REFERENCE,
    CONTRADICTION,
    COPIES_REFERENCE,
    MENTIONS_REFERENCE,
    NO_DERIVATION,
    NO_RESPONSE,
    REPETITION,
    TOO_FAR,
    TRUNCATED,
    WRONG_STEP,
    Verdict,
)
from ossft_ray.config import GuidedAlignment, Rewrite
from ossft_ray.method.steps import announces_another, false_equation, is_derived
from ossft_ray.method.thinking import is_unclosed, split_thinking

Verify = Callable[[Problem, str], Awaitable[Verdict]]
"""(problem, response text) -> the verifier's verdict."""


async def compare_answers(verify: Verify, problem: Problem, answer: str, other: str) -> Verdict:
    """The verdict of the problem's verifier on the other answer, with the first one as the gold answer."""
    return await verify(dataclasses.replace(problem, answer=answer), rf"\boxed{{{other}}}")


LONGER_TERMS: tuple[str, ...] = (
    *("set", "space", "curve", "vector", "pair", "interval", "region"),  # after "solution"
    *("choice", "option", "format", "blank"),  # after "answer"
    *("angle", "frame", "point", "line", "level", "direction", "axis", "system", "triangle", "value", "number"),
)
"""A phrase directly before one of these (or its plural) is part of a longer term: solution set, reference angle."""

_NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, Han
_LAYOUT = r"\\(?:left|right|big|Big|bigg|Bigg|quad|qquad|displaystyle|limits|text|mathrm)(?![A-Za-z])"
_WORD = re.compile(
    rf"<<[^<>\n]*>>|\\\\|{_LAYOUT}"  # skipped
    rf"|(\\[A-Za-z]+|[{_NO_SPACES}]|[^\W\d_{_NO_SPACES}]+|\d+(?:,\d{{3}})*(?:\.\d+)?)"
)
_BETWEEN_WORDS = re.compile(r"[\s*_\"“”]+")
_UNFINISHED = {"repetition": REPETITION, NO_RESPONSE: NO_RESPONSE}  # by finish reason; any other is truncation


async def assess(response: Response, stage: Stage, problem: Problem, verify: Verify, settings: Rewrite) -> Verdict:
    """Whether a response may be kept: it is finished, correct and without a fault (`find_fault`).

    An unfinished response is never verified.
    """
    if not is_finished(response):
        return Verdict(False, _UNFINISHED.get(response.finish_reason, TRUNCATED))
    return await assess_finished(response, stage, problem, verify, settings)


async def assess_finished(
    response: Response, stage: Stage, problem: Problem, verify: Verify, settings: Rewrite
) -> Verdict:
    """`assess` for a response that is known to be finished."""
    verdict = await verify(problem, response.text)
    if verdict.correct and (fault := find_fault(response, stage, problem, settings)):
        return Verdict(False, fault, verdict.extracted)
    return verdict


def is_finished(response: Response) -> bool:
    """Whether the policy ended the response itself, and not in the middle of its thinking."""
    return response.finish_reason == "stop" and not is_unclosed(response.text, response.in_thinking)


def find_fault(response: Response, stage: Stage, problem: Problem, settings: Rewrite) -> str | None:
    """Why a response with the right answer is not a sound solution, as a verdict's reason; or None."""
    thinking, answer = split_thinking(response.text)
    has_guide = stage != "self"
    if has_guide:
        guided, guide = settings.guided_alignment, str(problem.expert_solution)
        if leak := _find_leak([thinking, answer], guide, guided):
            return leak
        if guided.require_derivation and not is_derived(response.text, problem.answer, problem.question, guide):
            return NO_DERIVATION
        if guided.require_derivation and announces_another(answer, problem.answer):
            return CONTRADICTION
    # Thinking may contain false steps; the answer may not.
    is_checked = settings.check_steps == "all" or (settings.check_steps == "guided" and has_guide)
    if is_checked and false_equation(answer):
        return WRONG_STEP
    max_gap = settings.external_alignment.max_gap
    if max_gap is not None and response.gap is not None and response.gap > max_gap:
        return TOO_FAR
    return None


def _find_leak(parts: Sequence[str], guide: str, settings: GuidedAlignment) -> str | None:
    if any(mentions_reference(part, settings.reference_phrases) for part in parts):
        return MENTIONS_REFERENCE
    if any(copied_share(part, guide, settings.copied_ngram) > settings.max_copied for part in parts):
        return COPIES_REFERENCE
    if any(copied_share(guide, part, settings.copied_ngram) > settings.max_contained for part in parts):
        return CONTAINS_REFERENCE
    return None


def mentions_reference(text: str, phrases: Sequence[str] = REFERENCE_PHRASES) -> str | None:
    """The words of `text` that one of `phrases` matches, or None; the module's table gives the rules.

    >>> mentions_reference("As the Provided Solution shows, x = 2.", ["(given|provided) solution"])
    'provided solution'
    """
    plain = _plain(text)
    found = (pattern.search(plain) for pattern in map(_pattern, phrases) if pattern)
    return next((match[0] for match in found if match), None)


def copied_share(response: str, guide: str, ngram: int) -> float:
    """Share of the response's words that belong to a run of at least `ngram` words found in the guide, 0..1.

    A response shorter than `ngram` words counts as copied only if it equals the guide. Takes time linear in the length
    of both texts.

    >>> copied_share("So we add 2 and 3 to get 5.", "First, we add 2 and 3. That is 5.", ngram=4)
    0.5555555555555556
    """
    words, guide_words = list(_words(response)), list(_words(guide))
    if len(words) < ngram:
        return float(words == guide_words != [])
    runs, guide_runs = _number_runs([words, guide_words], ngram)
    in_guide = set(guide_runs)
    copied = end = 0
    for start, run in enumerate(runs):
        if run in in_guide:
            copied += start + ngram - max(start, end)
            end = start + ngram
    return copied / len(words)


def _plain(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", text.replace("’", "'").casefold())


@lru_cache(maxsize=256)
def _pattern(phrase: str) -> re.Pattern[str] | None:
    """Matches any alternative of a phrase as whole words; in scripts without spaces it may stand anywhere.

    `|` separates alternatives, within parentheses or of the whole phrase. None for an empty phrase.
    """
    wanted = _plain(phrase).strip()
    if not wanted:
        return None
    escaped = re.sub(r"[^\w\s'-]", lambda match: match[0] if match[0] == "|" else re.escape(match[0]), wanted)
    escaped = re.sub(r"\\\(([^()]*\|[^()]*)\\\)", r"(?:\1)", escaped)
    in_word = rf"[^\W{_NO_SPACES}]"
    before = rf"(?<!\w)(?={in_word})|(?!{in_word})"
    after = rf"(?<={in_word})(?!\w| (?:{'|'.join(LONGER_TERMS)})s?\b)|(?<!{in_word})"
    return re.compile(rf"(?:{before})(?:{escaped})(?:{after})")


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        if word := match[1]:
            # \Delta is not \delta
            yield word if word[0] == "\\" else word.replace(",", "").casefold()


def _number_runs(texts: Sequence[Sequence[str]], length: int) -> list[list[int]]:
    """Number every run of `length` words, with equal numbers for equal runs, in log2(length) passes over the texts.

    Each pass doubles the length: a run is the pair of its two overlapping halves (Karp, Miller and Rosenberg 1972).
    """
    numbers: dict[str, int] = {}
    runs = [[numbers.setdefault(word, len(numbers)) for word in text] for text in texts]
    width = 1
    while width < length:
        step = min(width, length - width)
        pairs: dict[tuple[int, int], int] = {}
        runs = [
            [pairs.setdefault(pair, len(pairs)) for pair in zip(numbered, numbered[step:], strict=False)]
            for numbered in runs
        ]
        width += step
    return runs
