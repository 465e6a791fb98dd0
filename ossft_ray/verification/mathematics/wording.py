r"""Do the words of two answers contradict each other, where their values agree? Units, bases, brackets, letters.

Math-Verify drops units, and subscripts of numbers, before it compares: 5 cm and 5 m are both 5, and 52 to the base of
8 is 52 to the base of 9. It does not tell a set from a pair either, or a word from the product of its letters.
What one answer leaves out contradicts nothing: 5 and 5 cm are the same.
"""

import re

_UNIT_NAMES = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre",
    "m": "meter metre",
    "km": "kilometer kilometre",
    "in": "inch inche",  # the plural loses its s first
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gram",
    "kg": "kilogram",
    "lb": "pound",
    "oz": "ounce",
    "ml": "milliliter millilitre",
    "l": "liter litre",
    "s": "sec second",
    "min": "minute",
    "h": "hr hour",
    "d": "day",
    "week": "",
    "month": "",
    "year": "yr",
    "degree": "deg",
    "radian": "rad",
    "cent": "",
    "dollar": "",
}
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in (unit, *names.split())}

_TEXT = r"\\(?:text|mathrm|mbox|textrm)\s*\{([^{}]*)\}"
_UNIT = re.compile(rf"\d[^{{}}]*?\s*{_TEXT}\s*(?:\^\s*\{{?\s*(\d)\s*\}}?)?[\s.$]*\Z")
_TEXTS_AROUND_NUMBERS = re.compile(rf"{_TEXT}[^{{}}]*\d.*{_TEXT}", re.DOTALL)
_BASE = re.compile(r"\A[\s$]*[0-9A-Fa-f]+\s*_\s*\{?\s*\(?(\d+)\)?\s*\}?[\s.$]*\Z")
_LETTER = re.compile(r"[\d}]\s?([cdghlmost])[\s.$]*\Z")  # those that Math-Verify drops as units
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")
_LETTERS_OF_UNITS = "mgsh"


def contradict(gold: str, answer: str) -> bool:
    r"""Whether two answers, each as it was written, cannot both be right.

    >>> contradict(r"5\text{ cm}", r"5\text{ m}"), contradict(r"5\text{ cm}", "5")
    (True, False)
    """
    return (
        _differ(_unit(gold), _unit(answer))
        or _differ(_base(gold), _base(answer))
        or _differ(_sign(gold), _sign(answer))
        or {_brackets(gold), _brackets(answer)} == {"{}", "()"}
        or _loses_its_letter(gold, answer)
        or _are_other_words(gold, answer)
    )


def has_numbers_between_words(answer: str) -> bool:
    r"""Whether more than a unit stands behind the first word: Math-Verify drops all of `\text{ or }6\text{ apples}`."""
    return bool(_TEXTS_AROUND_NUMBERS.search(answer))


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _unit(answer: str) -> tuple[str, str] | None:
    """The unit at the end, with its power, if it is one that we know."""
    found = _UNIT.search(answer)
    if not found:
        return None
    word = found[1].strip().rstrip(".")
    unit = _UNITS.get(word) or _UNITS.get(word.lower().removesuffix("s"))
    return (unit, found[2] or "1") if unit else None


def _base(answer: str) -> str | None:
    found = _BASE.match(answer)
    return found[1] if found else None


def _sign(answer: str) -> str | None:
    return "%" if "%" in answer else "$" if r"\$" in answer else None


def _brackets(answer: str) -> str | None:
    inner = answer.strip(" $.").replace(r"\left", "").replace(r"\right", "").strip()
    if inner.startswith(r"\{") and inner.endswith(r"\}"):
        return "{}"
    return "()" if inner.startswith("(") and inner.endswith(")") else None


def _loses_its_letter(gold: str, answer: str) -> bool:
    """`5t` is not 5. But an `m` at the end of the answer may be meters, where the gold answer ends without a letter."""
    of_gold, of_answer = _LETTER.search(gold), _LETTER.search(answer)
    if of_gold and of_gold[1] not in _COMMAND.sub("", answer):
        return True
    return bool(of_answer and of_answer[1] not in _COMMAND.sub("", gold) + _LETTERS_OF_UNITS)


def _are_other_words(gold: str, answer: str) -> bool:
    """Two words, though products of the same letters."""
    return all(map(_WORD.fullmatch, (gold, answer))) and gold.casefold() != answer.casefold()
