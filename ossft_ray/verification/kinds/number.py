r"""Numbers, compared within a tolerance and with units converted by pint.

Integers, decimals, fractions, mixed numbers and powers of ten are read, plain or in LaTeX: `1,234.5`, `1 234.5`,
`-2\frac{1}{2}`, `4.5 \times 10^{33}`, `4.5e33`, `\$18`, `50\%`, `9.8\,\mathrm{m/s^2}`. Units are compared if both
answers have one that pint knows. Words (`5 apples`), and a unit that only one answer has, are ignored. If only one
answer is a percentage, 50% equals both 50 and 0.5.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException, localcontext
from functools import cache
from typing import Any

import pint

from ossft_ray.common.verdict import CORRECT, NO_ANSWER, NO_GOLD, UNPARSED, WRONG, Verdict
from ossft_ray.verification.answers import stated_answer

_MAX_CHARACTERS = 1000
_CONTEXT = Context(prec=40)

_DIGITS = r"(?:\d{1,3}(?:[,'_  ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"  # the last two spaces are thin spaces
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[$€£¥]?\s*(?:(?:(?P<whole>\d+)\s+)?(?P<above>{_DIGITS})\s*/\s*(?P<below>{_DIGITS})"
    r"|10\s*(?:\^|\*\*)\s*(?P<only_power>[-+]?\d+)"
    rf"|(?P<digits>{_DIGITS})(?:\s*(?:[eE]|[*×x]\s*10\s*(?:\^|\*\*))\s*(?P<power>[-+]?\d+))?)(?![\d.,]*\d)\s*"
)
_NAME = re.compile(
    r"^\s*(?:[A-Za-z](?:_\w+)?\s*)?(?:=|≈|~)\s*|^\s*(?:about|approximately|approx\.?|roughly)\s+", re.IGNORECASE
)
_OUTER_PARENTHESES = re.compile(r"\([^()]*\)")
_WORD = re.compile(r"[A-Za-z]{3,}\b")  # but `2x` and `2\pi` are not numbers
_STRAY_DIGIT = re.compile(r"(?<![\^\-A-Za-z\d])\d")
_ANGLES = ("degree", "degrees", "deg", "rad", "radian", "radians")
_REWRITES = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\^\s*\{\s*([-+]?\d+)\s*\}", r"^\1"),
        (r"\\(?:text|textbf|mathrm|mathbf|mbox|rm|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\{,\}|\\,(?=\d{3})", ","),
        (r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))", r" \1\3/\2\4 "),
        (r"\\(?:left|right|displaystyle|quad|[,;:! ])|[~{}$](?=\D|\Z)", " "),
        (r"\\(?:times|cdot|ast)|·|⋅", "*"),
        (r"\\(?:approx|simeq|sim)(?![A-Za-z])", "≈"),
        (r"\\?%|\bper\s?cent\b", " percent "),
        (r"\^?\s*\{?\s*(?:\\circ|°)\s*\}?\s*([CF])\b", r" deg\1 "),
        (r"\^?\s*\{?\s*(?:\\circ|°)\s*\}?", " degree "),
        (r"\\mu\b|µ", "μ"),
        (r"\\(?:Omega)\b", "ohm"),
        (r"\\\$", "$"),
        ("[−–]", "-"),
    )
]


@dataclass(frozen=True)
class Number:
    """A value with the unit after it, if pint knows it, or with a percent sign."""

    value: Decimal
    unit: Any = None
    is_percent: bool = False


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
    if not answer.strip():
        return Verdict(False, NO_GOLD)
    extracted = stated_answer(response)
    if extracted is None:
        return Verdict(False, NO_ANSWER)
    gold, number = read_number(answer), read_number(extracted)
    if gold is None or number is None:
        return Verdict(False, UNPARSED, extracted)
    with localcontext(_CONTEXT):
        correct = any(
            abs(value - gold.value) <= max(Decimal(relative_tolerance) * abs(gold.value), Decimal(absolute_tolerance))
            for value in _in_units_of(gold, number)
        )
    return Verdict(correct, CORRECT if correct else WRONG, extracted)


def read_number(text: str) -> Number | None:
    r"""Read a number with its unit; None for any other text, such as several numbers.

    >>> read_number(r"1{,}234.5"), read_number("3 or 4")
    (Number(value=Decimal('1234.5'), unit=None, is_percent=False), None)
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _NAME.sub("", text.strip().removesuffix(".").strip())
    if _OUTER_PARENTHESES.fullmatch(text):
        text = text[1:-1].strip()
    match = _NUMBER.match(text)
    if match is None:
        return None
    try:
        with localcontext(_CONTEXT):
            value = _value(match)
    except (DecimalException, ValueError, OverflowError):
        return None
    rest = text[match.end() :].strip(" ()[].,;:")
    if not rest:
        return Number(value)
    if rest.split()[0] == "percent":
        return Number(value, is_percent=True)
    if _STRAY_DIGIT.search(rest):
        return None
    unit = _read_unit(rest) or _read_unit(rest.split()[0])
    return Number(value, unit) if unit is not None or _WORD.match(rest) else None


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
    """The values that a number may mean in the unit of `gold`; empty if the two units measure different things."""
    if gold.is_percent != number.is_percent and (gold.unit or number.unit) is None:
        return [number.value, number.value / 100 if number.is_percent else number.value * 100]
    if gold.unit is None or number.unit is None:
        return [number.value]
    try:
        return [_registry().Quantity(number.value, number.unit).to(gold.unit).magnitude]
    except (pint.PintError, DecimalException, ArithmeticError, TypeError):
        return []


def _read_unit(text: str) -> Any:
    """Parse a unit; None for a text that pint does not know, which counts as words."""
    if len(text) > 60:
        return None
    try:
        unit = _registry().parse_units(re.sub(r"(?<=[\w)])\s+(?=[A-Za-zμ])", "*", text))
    except Exception:  # pint raises its own errors, and errors of the tokenizer and of arithmetic
        return None
    return None if unit.dimensionless and text not in _ANGLES else unit


@cache
def _registry() -> Any:
    return pint.UnitRegistry(non_int_type=Decimal)
