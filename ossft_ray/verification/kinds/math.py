r"""Mathematical answers, compared by Math-Verify without its timeouts, and only if the response states an answer.

Math-Verify's `parse` takes any number in a text if it finds nothing better, so "I see 5 apples and give up" would pass
for 5. Here the response must state its answer (`answers.py`), and that answer is read as a whole.

Answers too large to be evaluated or compared are recognised by their form (`mathematics/complexity.py`). An answer may
still be hard, and nothing here limits time or memory, because Math-Verify's own timeouts use SIGALRM and work only in a
main thread. So grade the text of a model through `VerifierPool`.
"""

import logging
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from math_verify.errors import TimeoutException

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification import units
from ossft_ray.verification.answers import announced_answer, conclusion, final_answer, gold_answer, without_reasons
from ossft_ray.verification.kinds.choice import compare_choices
from ossft_ray.verification.kinds.text import TEXT_COMMAND
from ossft_ray.verification.mathematics import reading
from ossft_ray.verification.mathematics.complexity import MAX_CHARACTERS, TooComplex
from ossft_ray.verification.mathematics.equality import equal
from ossft_ray.verification.mathematics.notation import rewrite
from ossft_ray.verification.mathematics.statements import agree, is_readable
from ossft_ray.verification.normalisation import latex_of

reading.install()
units.preload()

# Math-Verify warns that its timeouts are off, but the pool limits the time.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

# Math-Verify would drop the units, and letters that it takes for units; `quantities.py` reads them.
_NORMALISATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
_WHOLE = [LatexExtractionConfig(normalization_config=_NORMALISATION)]
_FULL_STOP = re.compile(r"(?<!\.)\s*\.\Z")  # but 0.333... is not 0.333
_TEXT_NUMBER = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}A-Za-z]*\d[^{}A-Za-z]*)\}")
_EQUALS = re.compile(r"(?<![<>!:\\])=")


def grade(answer: str, response: str, *, question: str = "") -> Verdict:
    r"""Compare the answer that `response` states with `answer` (LaTeX, a number, or words).

    Both are brought into one form (`normalisation.py`) and compared as statements (`mathematics/statements.py`), whose
    values Math-Verify compares. If the question has options and the gold answer is their letters, letters are
    compared. A gold answer that cannot be parsed, or is too complex, is compared as text, ignoring case. No text makes
    this raise anything but MemoryError under a memory limit.
    """
    answer = gold_answer(answer)
    if not answer:
        return Verdict(False, NO_GOLD)
    text = conclusion(response)
    marked = final_answer(text)
    extracted = announced_answer(text) if marked is None else marked
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if plain_text(extracted) == plain_text(answer):
        return Verdict(True, CORRECT, extracted)
    if len(extracted) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, extracted)
    if len(answer) > MAX_CHARACTERS:  # compared as text, above
        return Verdict(False, WRONG, extracted)
    same_letters = compare_choices(answer, extracted, question)
    if same_letters is not None:
        return Verdict(same_letters, CORRECT if same_letters else WRONG, extracted)
    stated = latex_of(extracted if marked is not None else _last_of_chain(without_reasons(extracted)))
    gold = _normalised_gold(answer)
    try:
        correct = agree(gold, stated, _read)
        if not correct and not _is_readable(answer):
            correct = plain_text(gold).casefold() == plain_text(stated).casefold()
    except TooComplex:
        return Verdict(False, TOO_COMPLEX, extracted)
    if correct is None:
        return Verdict(False, UNPARSED, extracted)
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def check_answer(answer: str, *, question: str = "") -> Verdict:
    """Check that a gold answer is usable: it is mathematics that equals itself, words, or both."""
    answer = gold_answer(answer)
    if not answer:
        return Verdict(False, NO_GOLD)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(False, TOO_COMPLEX, answer)
    try:
        expressions = _read_whole(answer)
        if expressions and not all(equal(expression, expression) for expression in expressions):
            return Verdict(False, WRONG, answer)
        readable = bool(expressions) or is_readable(latex_of(answer), _read)
    except TooComplex:
        return Verdict(False, TOO_COMPLEX, answer)
    return Verdict(readable, CORRECT if readable else UNPARSED, answer)


def plain_text(answer: str) -> str:
    r"""Remove what never changes an answer: outer and repeated white space, `$`, `\text{}`, a closing full stop.

    >>> plain_text(r" $\text{Evelyn}$.")
    'Evelyn'
    """
    # A space replaces each command, so that "2\text{3}" does not become 23.
    words = TEXT_COMMAND.sub(r" \1 ", answer.replace(r"\$", " ").replace("$", " "))
    return _FULL_STOP.sub("", " ".join(words.split()))


@lru_cache(maxsize=4096)
def _normalised_gold(answer: str) -> str:
    return latex_of(answer) if len(answer) <= MAX_CHARACTERS else answer


@lru_cache(maxsize=4096)
def _is_readable(answer: str) -> bool:
    """Whether a gold answer can be read; cached for all the responses to a problem."""
    return check_answer(answer).reason in (CORRECT, WRONG)


def _read_whole(answer: str) -> list[Any]:
    """Parse an answer as people write it.

    Raises:
        TooComplex: the answer is too large to be evaluated or compared.
    """
    if len(answer) > MAX_CHARACTERS:
        raise TooComplex
    return _read(rewrite(latex_of(answer)))


@lru_cache(maxsize=4096)
def _read_cached(latex: str) -> tuple[Any, ...]:
    if len(latex) > MAX_CHARACTERS:  # before any pattern is tried on it
        raise TooComplex
    # Math-Verify misreads a number in \text{} as a symbol.
    latex = _TEXT_NUMBER.sub(r"\1", latex)
    return tuple(_expressions(_parse(f"${latex}$", _WHOLE)))


def _read(latex: str) -> list[Any]:
    """Parse one piece of LaTeX as a whole. If that fails, no number is picked out of it.

    Raises:
        TooComplex: the answer is too large to be evaluated or compared.
    """
    return list(_read_cached(latex))


def _last_of_chain(text: str) -> str:
    """Return the C of "the answer is A = B = C", and any other text as is."""
    parts = _EQUALS.split(text)
    is_chain = len(parts) > 2 and "," not in text and ";" not in text
    return parts[-1] if is_chain else text


def _parse(text: str, targets: list[Any]) -> list[Any]:
    try:
        return list(parse(text, targets, extraction_mode="first_match", parsing_timeout=None, raise_on_error=True))
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return []


def _expressions(found: list[Any]) -> list[Any]:
    """Drop the strings: Math-Verify appends the text of its first match to the parsed expressions."""
    return [item for item in found if not isinstance(item, str)]
