r"""Numbers, compared within a tolerance and with units converted by pint.

Integers, decimals, fractions, mixed numbers and powers of ten are read, plain or in LaTeX: `1,234.5`, `1 234.5`,
`1.234,5`, `-2\frac{1}{2}`, `4.5 \times 10^{33}`, `4.5e33`, `\$18`, `1.5 million`, `50\%`, `9.8\,\mathrm{m/s^2}`. The
words around a number are compared as in `quantities.py`: units convert, words that only one answer has are ignored
unless they change the number (`5 pairs`), and different words are different answers. A percentage is a hundredth of
its number; if the gold answer is one, the bare number is right too.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException, localcontext
from fractions import Fraction

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, UNPARSED, WRONG, Verdict
from ossft_ray.verification import quantities, units
from ossft_ray.verification.answers import gold_answer, stated_answer, without_reasons
from ossft_ray.verification.normalisation import latex_of, trim
from ossft_ray.verification.quantities import Wording

units.preload()

_MAX_CHARACTERS = 1000
_CONTEXT = Context(prec=40)

_DIGITS = r"(?:\d{1,3}(?:[,'_ ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?:(?P<whole>\d+)\s+)?(?P<above>{_DIGITS})\s*/\s*(?P<below>{_DIGITS})"
    r"|10\s*(?:\^|\*\*)\s*(?P<only_power>[-+]?\d+)"
    rf"|(?P<digits>{_DIGITS})(?:\s*(?:[eE]|[*×x]\s*10\s*(?:\^|\*\*))\s*(?P<power>[-+]?\d+))?)(?![\d.,]*\d)\s*"
)
_NAME = re.compile(r"^\s*(?:[A-Za-z](?:_\w+)?\s*)?(?:=|\\(?:approx|simeq|sim)(?![A-Za-z])|~)\s*")
_OUTER_PARENTHESES = re.compile(r"\([^()]*\)")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d+)(?![\d.,])")
_DOTS = re.compile(r"(?<=\d)(?:\.{2,}|\s*\\ldots)\Z")
_SPELLED = re.compile(r"[A-Za-z]{3,}\b|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # but not `2x` or `2\pi`
_REWRITES = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\^\s*\{\s*([-+]?\d+)\s*\}", r"^\1"),
        (r"\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))", r" \1\3/\2\4 "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
    )
]


@dataclass(frozen=True)
class Number:
    """A value, and what the words around it say."""

    value: Decimal
    wording: Wording


def grade(
    answer: str,
    response: str,
    *,
    question: str = "",
    relative_tolerance: float = 1e-6,
    absolute_tolerance: float = 0.0,
) -> Verdict:
    """Compare the number that `response` states with `answer`.

    It is correct if it differs by at most max(relative_tolerance · |answer|, absolute_tolerance).
    """
    answer = gold_answer(answer)
    if not answer:
        return Verdict(False, NO_GOLD)
    extracted = stated_answer(response)
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    gold, number = read_number(answer), read_number(without_reasons(extracted))
    if gold is None or number is None:
        return Verdict(False, UNPARSED, extracted)
    with localcontext(_CONTEXT):
        correct = any(
            abs(value - gold.value) <= max(Decimal(relative_tolerance) * abs(gold.value), Decimal(absolute_tolerance))
            for value in _in_units_of(gold, number)
        )
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def read_number(text: str) -> Number | None:
    r"""Read a number with the words around it; None for any other text, such as several numbers.

    >>> read_number(r"1{,}234.5").value, read_number("3 or 4")
    (Decimal('1234.5'), None)
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    latex = latex_of(_DECIMAL_COMMA.sub(lambda match: match[1].replace(".", "") + "." + match[2], text))
    try:
        with localcontext(_CONTEXT):
            if compound := quantities.compound(latex):
                return Number(_decimal(compound[0]), compound[1])
            before, rest = quantities.split_head(latex)
            for pattern, replacement in _REWRITES:
                rest = pattern.sub(replacement, rest)
            rest = _NAME.sub("", _DOTS.sub("", trim(rest)))
            rest = rest[1:-1].strip() if _OUTER_PARENTHESES.fullmatch(rest) else rest
            match = _NUMBER.match(rest)
            if match is None:
                return None
            is_apart = match[0].endswith(" ") or rest.startswith(r"\text", match.end())
            value, rest = _value(match), rest[match.end() :]
    except (DecimalException, ValueError, OverflowError, ZeroDivisionError):
        return None
    after = quantities.words_in(rest)
    wording = quantities.read_wording(before, after)
    if after and (
        after[0] == "!"
        or any(word[0].isdigit() for word in after)
        or not (_is_word(after[0], is_apart) or _is_known(wording))
    ):
        return None
    sign = -1 if wording.is_negative else 1
    with localcontext(_CONTEXT):
        return Number(sign * value * _decimal(wording.scale), wording)


def _is_word(word: str, is_apart: bool) -> bool:
    """Whether the words after a number begin with one, not with letters of mathematics such as `x` or `ab`."""
    return _SPELLED.match(word) is not None or (is_apart and len(word) > 1 and word.isalpha())


def _is_known(wording: Wording) -> bool:
    """Whether the words after a number are a unit, a percent sign or a scale, or mean nothing (counters, am, pm)."""
    return (
        not wording.after or wording.is_percent or wording.scale != 1 or quantities.unit_of(wording.after) is not None
    )


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _value(match: re.Match[str]) -> Decimal:
    def decimal(name: str) -> Decimal:
        return Decimal(re.sub(r"[^\d.]", "", match[name] or "0"))

    if match["above"]:
        value = decimal("whole") + decimal("above") / decimal("below")
    elif match["only_power"]:
        value = Decimal(1).scaleb(int(match["only_power"]))
    else:
        value = decimal("digits").scaleb(int(match["power"] or 0))
    return -value if match["sign"] == "-" else value


def _in_units_of(gold: Number, number: Number) -> list[Decimal]:
    """The values that a number may mean in the unit of `gold`; empty if the words around the two contradict."""
    one, other = gold.wording, number.wording
    factor = quantities.conversion(one, other)
    if factor is None:
        degrees = units.temperature(number.value, *map(quantities.unit_of, (other.after, one.after)))
        return [] if degrees is None else [degrees]
    value = number.value * _decimal(factor)
    if one.is_percent == other.is_percent:
        return [value]
    return [value, value * 100] if one.is_percent else [value / 100]
