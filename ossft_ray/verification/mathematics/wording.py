r"""Contradictions between the words of two answers with equal values: units, bases, brackets and letters.

Math-Verify drops units and the subscripts of numbers before it compares, so 5 cm equals 5 m, and 52 in base 8 equals 52
in base 9. It also treats a set as a pair, and a word as the product of its letters. An answer that omits something
contradicts nothing: 5 and 5 cm are the same.
"""

import re

# Each unit with its other names; a plural loses its s before it is looked up.
_UNIT_NAMES = (
    "mm millimeter millimetre, cm centimeter centimetre, m meter metre, km kilometer kilometre, in inch inche, "
    "ft foot feet, yd yard, mi mile, mg milligram, g gram, kg kilogram, lb pound, oz ounce, ml milliliter millilitre, "
    "l liter litre, s sec second, min minute, h hr hour, d day, week, month, year yr, degree deg, radian rad, "
    "dollar, cent"
)
_UNITS = {name: names.split()[0] for names in _UNIT_NAMES.split(",") for name in names.split()}

_TEXT = r"\\(?:text|mathrm|mbox|textrm)\s*\{([^{}]*)\}"
_UNIT = re.compile(rf"\d[^{{}}]*?\s*{_TEXT}\s*(?:\^\s*\{{?\s*(\d)\s*\}}?)?[\s.$]*\Z")
_TEXTS_AROUND_NUMBERS = re.compile(rf"{_TEXT}[^{{}}]*\d.*{_TEXT}", re.DOTALL)
_BASE = re.compile(r"\A[\s$]*[0-9A-Fa-f]+\s*_\s*\{?\s*\(?(\d+)\)?\s*\}?[\s.$]*\Z")
_LETTER = re.compile(r"[\d}]\s?([cdghlmost])[\s.$]*\Z")  # the letters that Math-Verify drops as units
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[A-Za-z]{4,}")
_LETTERS_OF_UNITS = "mgsh"


def contradict(gold: str, answer: str) -> bool:
    r"""Whether the wording of two answers with equal values makes them different answers.

    >>> contradict(r"5\text{ cm}", r"5\text{ m}"), contradict(r"5\text{ cm}", "5")
    (True, False)
    """
    return (
        any(_differ(read(gold), read(answer)) for read in (_unit, _base, _sign))
        or {_brackets(gold), _brackets(answer)} == {"{}", "()"}
        or _loses_its_letter(gold, answer)
        or _are_other_words(gold, answer)
    )


def has_numbers_between_words(answer: str) -> bool:
    r"""Whether a number stands between two texts: Math-Verify would drop all of `\text{ or }6\text{ apples}`."""
    return bool(_TEXTS_AROUND_NUMBERS.search(answer))


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _unit(answer: str) -> tuple[str, str] | None:
    """The known unit at the end of an answer, with its power."""
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
    """Whether one answer lacks a letter at the end of the other: `5t` is not 5, though `5m` may be 5 meters."""
    of_gold, of_answer = _LETTER.search(gold), _LETTER.search(answer)
    if of_gold and of_gold[1] not in _COMMAND.sub("", answer):
        return True
    return bool(of_answer and of_answer[1] not in _COMMAND.sub("", gold) + _LETTERS_OF_UNITS)


def _are_other_words(gold: str, answer: str) -> bool:
    """Whether both answers are words and differ, though Math-Verify takes them for products of the same letters."""
    return all(map(_WORD.fullmatch, (gold, answer))) and gold.casefold() != answer.casefold()
