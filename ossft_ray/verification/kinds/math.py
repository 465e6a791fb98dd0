r"""Is this mathematical answer right? Math-Verify, without its own timeouts, and strict about what the answer is.

Math-Verify's `parse` takes any number of a text when it finds nothing better, so a response that gives up after
"I see 5 apples" would pass for 5. Here the answer must be said (`answers.py`), and is then read as a whole.

Nothing here limits time or memory (Math-Verify would use SIGALRM, which works in a main thread only): grade what a
model wrote through `VerifierPool`.
"""

import itertools
import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

from ossft_ray.verification.answers import announced_answer, conclusion, final_answer, well_formed
from ossft_ray.verification.verdict import CORRECT, NO_ANSWER, NO_GOLD, UNPARSED, WRONG, Verdict

# It warns that its timeouts are off; the pool's processes keep the time.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_WHOLE = [LatexExtractionConfig()]
_ANNOUNCED = [
    LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=-1),
    ExprExtractionConfig(try_extract_without_anchor=False),
]
_FULL_STOP = re.compile(r"(?<!\.)\s*\.\Z")  # but 0.333... is not 0.333
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_BOLD_MATH = re.compile(r"\\(?:mathbf|boldsymbol|bm)\s*\{([^{}]*)\}")
_TEXT_NUMBER = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}A-Za-z]*\d[^{}A-Za-z]*)\}")
_COMMAND = re.compile(  # but for Greek letters
    r"\\(?:begin|end)\s*\{[a-z]*\}(?:\s*\{[lcr|]*\})?|\\(?:[dt]?frac|[dt]?binom|sqrt|cdot|times|div|left|right|pi|pm|quad)(?![a-z])"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’-]+[^\W\d_]+)*", re.UNICODE)


def grade(answer: str, response: str, *, question: str = "") -> Verdict:
    r"""Compare the answer that `response` states with `answer` (LaTeX, a number, or words).

    Texts that are equal but for white space, `$`, `\text{}` and a closing full stop are equal answers; all else is
    Math-Verify's comparison. A gold answer that Math-Verify cannot parse is compared as text only, without
    regard to case. Never raises for what the texts say, except MemoryError where memory is limited.
    """
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    text = conclusion(well_formed(response))
    marked = final_answer(text)
    extracted = announced_answer(text) if marked is None else marked
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    if plain_text(extracted) == plain_text(answer):
        return Verdict(True, CORRECT, extracted)
    golds = _read_gold(answer)
    if not golds:
        same = plain_text(extracted).casefold() == plain_text(answer).casefold()
        return Verdict(same, CORRECT if same else WRONG, extracted)
    is_sentence = marked is None and _WORD.search(_TEXT_COMMAND.sub("", extracted))
    predictions = _read_announced(extracted) if is_sentence else _read_whole(extracted)
    if not predictions:
        return Verdict(False, UNPARSED, extracted)
    correct = any(_equal(gold, prediction) for gold, prediction in itertools.product(golds, predictions))
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def check_answer(answer: str, *, question: str = "") -> Verdict:
    """Whether a gold answer can be compared with: it is mathematics that equals itself, or plain words."""
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    golds = _read_gold(answer)
    if not golds:
        is_text = _WORDS.fullmatch(plain_text(answer)) is not None
        return Verdict(is_text, CORRECT if is_text else UNPARSED, answer)
    same = all(_equal(gold, gold) for gold in golds)
    return Verdict(same, CORRECT if same else WRONG, answer)


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
    return tuple(_read_whole(answer))


def _read_whole(answer: str) -> list[Any]:
    """The answer read as one piece of LaTeX. No number is picked out of something that does not parse as a whole."""
    single_line = _FULL_STOP.sub("", " ".join(answer.split()))
    # Math-Verify drops what is bold, and takes a number in \text{} for a symbol.
    single_line = _BOLD_MATH.sub(lambda match: match[1].replace(" ", "").rstrip(".,"), single_line)
    single_line = _value_of(_TEXT_NUMBER.sub(r"\1", single_line))
    if "$" not in single_line.replace(r"\$", ""):
        single_line = f"${single_line}$"
    return _expressions(_parse(single_line, _WHOLE))


def _value_of(text: str) -> str:
    """Of a calculation "2 + 3 = 5" what it comes to; any other text as it is."""
    *calculation, value = _EQUALS.split(text)
    is_calculation = calculation and not any(char.isalpha() for part in calculation for char in _COMMAND.sub("", part))
    return value.strip(" $") if is_calculation and value.strip(" $.") else text


def _read_announced(sentence: str) -> list[Any]:
    """The expression that a sentence after "the answer is" begins with: "5 apples, since ..." is 5."""
    return _expressions(_parse(f"answer is {sentence}", _ANNOUNCED))


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


def _equal(gold: Any, prediction: Any) -> bool:
    try:
        return bool(verify(gold, prediction, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return False  # two things that cannot be compared, such as a set and a matrix
