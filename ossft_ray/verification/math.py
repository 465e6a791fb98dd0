r"""Is this mathematical answer right? Math-Verify, without its own timeouts, and strict about what the answer is.

Math-Verify's `parse` takes any number of a text when it finds nothing better, so a response that gives up after
"I see 5 apples" would pass for 5. Here the answer must be said: in a box, after `####` (see `answers.py`), or near
the end in words that Math-Verify anchors on ("the answer is 5").

Answers too large to be evaluated or compared are told by their looks (`screening.py`). Those that are merely hard are
not, and nothing here limits time or memory (Math-Verify would use SIGALRM, which works in a main thread only): grade
what a model wrote through `VerifierPool`.
"""

import itertools
import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from math_verify.errors import TimeoutException

from ossft_ray.verification import reading
from ossft_ray.verification.answers import conclusion, final_answer
from ossft_ray.verification.equality import equal
from ossft_ray.verification.screening import MAX_CHARACTERS, TooComplex
from ossft_ray.verification.verdict import CORRECT, NO_ANSWER, NO_GOLD, TOO_COMPLEX, UNPARSED, WRONG, Verdict
from ossft_ray.verification.wording import contradict, has_numbers_between_words

reading.install()

# It warns that its timeouts are off; the pool's processes keep the time.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

# Words that announce an answer count only near the end.
ANNOUNCED_WITHIN_CHARACTERS = 400

_WHOLE = [LatexExtractionConfig()]
_ANNOUNCED = [
    LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=-1),
    ExprExtractionConfig(try_extract_without_anchor=False),
]
_FULL_STOP = re.compile(r"(?<!\.)\s*\.\Z")  # but 0.333... is not 0.333
_THOUSANDS = re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))")
_BOLD = re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(])")  # but 5**2 is a power
# What follows a number that is not the whole answer; m, s, g and h may be units.
_CONTINUES = re.compile(r"\s*(?:\*(?!\*)|[/^=+×÷])|\(|[a-fi-ln-rt-zA-Z](?![a-zA-Z])|\s+or\s+\S*\d")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")


def grade(answer: str, response: str) -> Verdict:
    r"""Compare the final answer of `response` with `answer` (LaTeX, a number, or words).

    Texts that are equal but for white space, `$`, `\text{}` and a closing full stop are equal answers; all else is
    Math-Verify's comparison, less what it wrongly accepts (`equality.py`, `wording.py`). A gold answer that cannot be
    parsed, or is too complex to, is compared as text only, without regard to case. Never raises for what the texts
    say, except MemoryError where memory is limited.
    """
    # Half of a surrogate pair can be sampled, but not written to UTF-8 afterwards.
    response = response.encode("utf-8", "replace").decode("utf-8")
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    text = conclusion(response)
    extracted = final_answer(text)
    is_verbatim = extracted is not None  # what is announced comes without its units and brackets
    if extracted is not None and plain_text(extracted) == plain_text(answer):
        return Verdict(True, CORRECT, extracted)
    try:
        if extracted is not None:
            predictions = _read_whole(extracted)
        else:
            predictions, extracted = _read_announced(text)
    except TooComplex:
        return Verdict(False, TOO_COMPLEX, extracted and extracted[:MAX_CHARACTERS])
    if extracted is None:
        return Verdict(False, NO_ANSWER)

    golds = _read_gold(answer)
    if not golds:
        same = plain_text(extracted).casefold() == plain_text(answer).casefold()
        return Verdict(same, CORRECT if same else WRONG, extracted)
    if not predictions:
        return Verdict(False, UNPARSED, extracted)
    correct = any(equal(gold, prediction) for gold, prediction in itertools.product(golds, predictions))
    if correct and is_verbatim:
        correct = not contradict(" ".join(answer.split()), " ".join(extracted.split()))
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def plain_text(answer: str) -> str:
    r"""An answer without what never changes it: outer and repeated white space, `$`, `\text{}`, a closing full stop.

    >>> plain_text(r" $\text{Evelyn}$.")
    'Evelyn'
    """
    # Spaces where a command stood: "2\text{3}" must not become 23.
    words = _TEXT_COMMAND.sub(r" \1 ", answer.replace(r"\$", " ").replace("$", " "))
    return _FULL_STOP.sub("", " ".join(words.split()))


@lru_cache(maxsize=4096)
def _read_gold(answer: str) -> tuple[Any, ...]:
    """Math-Verify's reading of a gold answer, done once for all the responses to a problem; empty if it has none."""
    try:
        return tuple(_read_whole(answer))
    except TooComplex:
        return ()


def _read_whole(answer: str) -> list[Any]:
    """The answer read as one piece of LaTeX. No number is picked out of something that does not parse as a whole.

    Raises:
        TooComplex: it is too large to be evaluated or compared.
    """
    single_line = _THOUSANDS.sub("", " ".join(answer.split())).replace(r"\varnothing", r"\emptyset")
    if len(single_line) > MAX_CHARACTERS:  # before any pattern is tried on it
        raise TooComplex
    if has_numbers_between_words(single_line):
        return []
    if "$" not in single_line.replace(r"\$", ""):
        single_line = f"${single_line}$"
    return _expressions(_parse(single_line, _WHOLE))


def _read_announced(text: str) -> tuple[list[Any], str | None]:
    """The expression after "the answer is" at the end of the text, and its wording; (nothing, None) without one."""
    text = _BOLD.sub("", text[-ANNOUNCED_WITHIN_CHARACTERS:])
    found = _parse(text, _ANNOUNCED)
    wording = next((item for item in found if isinstance(item, str)), None)
    place = text.rfind(wording) if wording else -1
    if wording and place >= 0 and _CONTINUES.match(text, place + len(wording)):
        return [], wording
    return _expressions(found), wording


def _parse(text: str, targets: list[Any]) -> list[Any]:
    try:
        found: list[Any] = parse(
            text, targets, extraction_mode="first_match", parsing_timeout=None, raise_on_error=True
        )
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return []
    return found


def _expressions(found: list[Any]) -> list[Any]:
    """Math-Verify appends the wording of its first match, a string, to what it could parse."""
    return [item for item in found if not isinstance(item, str)]
