r"""Comparison of two answers as people write them: several parts, words, units, ratios, conditions.

`agree` takes two answers normalised by `latex_of`. It sets aside what says more than the value (a modulus, a base, the
name of a point, "k is an integer"), splits lists whose members have words, and leaves the values to `equality.py`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy

from ossft_ray.verification import quantities
from ossft_ray.verification.mathematics.equality import as_set, equal, product
from ossft_ray.verification.mathematics.notation import rewrite
from ossft_ray.verification.quantities import Wording

Read = Callable[[str], list[Any]]  # a value in LaTeX -> its expressions, empty if it does not parse

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_JOINED_TEXT = re.compile(r"\\text\s*\{([^{}]*?)[,;\s]*\b(and|or)\b\s*([^{}]*)\}")
_NUMBER_IN_TEXT = re.compile(r"\\text\s*\{([^{}A-Za-z]*\d[^{}A-Za-z]*)\}")
_LETTER_IN_TEXT = re.compile(r"\\text\s*\{\s*\(?\s*([A-Za-z])\s*\)?\s*\}")
_ASIDE = re.compile(r"(?<=[\d}])\s+(\([A-Za-z][A-Za-z\s'-]{2,}\))\Z")
_UNIT_LETTER = re.compile(r"(?<=[\d})])(\s?[mgsh]|\s[LNJWVAK])(?:\s*\^\s*\{?([23])\}?)?\Z")
_PRIMES = re.compile(r"(?<=\d)\s*('{1,2}|\")\Z")  # 5' and 5" are feet and inches
_NUMBERS_IN_A_ROW = re.compile(r"-?\d+(?:\s+-?\d+)+")  # a sequence, not a product
_LETTERS_IN_A_ROW = re.compile(r"[A-Za-z](?:\s*[,;]\s*[A-Za-z])+")
_UNIT_FRACTION = re.compile(r"(-?\d[\d.,{}]*)\s+((?:k?m|mi|ft|cm|g|kg|km)\s*/\s*(?:s|h|hr|min)(?:\^\{?2\}?)?)")
_DASHED = re.compile(r"\d+(?:-\d+){2,}")  # a date or a code, not a difference
_LABEL = re.compile(r"[A-Z]\s*\d+")  # A1 is not a product
_MODULUS = re.compile(
    r"\s*\(?\s*\\?(?:pmod|bmod|mod|text\s*\{\s*\(?\s*mod\s*\}?)\s*\{?\s*(\d+|[a-z])\s*\}?\s*\)?\s*\}?\Z"
)
_BASE = re.compile(
    r"(-?[0-9A-Fa-f.]*\d[0-9A-Fa-f.]*|[A-F])\s*_\s*(?:\{?\s*\(?\s*(\d+)\s*\)?\s*\}?|\{?\s*\\text\s*\{\s*(\w+)\s*\}\s*\}?)\Z"
)
_BASE_WORDS = re.compile(r"\s*\(?(?:\\text\s*\{)?\s*\(?(?:in )?base[\s-]*\}?\s*(\w+)\s*\)?\}?\s*\Z")
_NUMBER_NAMES = dict(
    zip(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        range(2, 13),
        strict=True,
    )
)
_DOMAIN = re.compile(
    r"(?:[,;\s(\[]|\\text\s*\{[\s,]*(?:where|for|with|and)?[\s,]*\}|where\s|for\s|with\s)+([A-Za-z])\s*"
    r"(?:\\in\s*\\mathbb\s*\{?\s*([ZNRQC])\s*\}?(?:\s*[\^_]\s*\{?\s*([*+]|\\ast|0|\\ge\s*0)\s*\}?)?"
    r"|(?:\\text\s*\{)?\s*(?:is|are|being)?\s*(?:an?|any)?\s*(?:arbitrary )?"
    r"(integer|natural number|real number|constant)s?\s*\}?)\s*[)\]]?\Z"
)
_FOR_ANY = re.compile(
    r"[,\s]*(?:\\text\s*\{\s*)?\b(?:for|where)\s+(?:any|all|every|each|some|arbitrary)[A-Za-z\s]*\}?\s*[A-Za-z]?"
    r"(?:\s*\\in\s*\\mathbb\s*\{?\s*[A-Z]\s*\}?)?\Z"
)
_POINT = re.compile(r"([A-Z]'?)\s*(\((?![^()]*=)[^()]*,[^()]*\))\Z")
_NAMED = re.compile(r"([A-Za-z])(?:\(\s*([^()=]+?)\s*\))?\s*(?:=|\\equiv)\s*([^=<>]+)\Z")
_RATIO_NAMES = re.compile(r"[^=:]+(?::[^=:]+)+=\s*(?=.*:)")
_RATIO_WORD = re.compile(r"(?<=[\d})])\s*(?:\\text\s*\{\s*(?:to|is to)\s*\}|\bto\b)\s*(?=[\d\\({])")
_TIME = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?\Z")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|lt|gt|leq|geq|ne|neq|in)(?![a-z])|\\mid|\\cup")
_SET_BUILDER = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{?R\}?\s*)?(?:\\mid|\\vert|\||:)\s*(.*)\\\}\Z")
_IN = re.compile(r"\A([A-Za-z])\s*\\in\s*(?=[(\[\\])")
_APPROXIMATELY = re.compile(r"\\(?:approx|simeq|thickapprox|sim|doteq)(?![a-z])|~|≈")
_PRODUCT = re.compile(r"(?!.*(.).*\1)[b-df-hj-np-tv-z]{2,4}")  # letters as variables: xy, pqr, but not `no` or `hht`
_NAME_OF_POINTS = re.compile(r"(?<![\\A-Za-z])[A-Z]{3,}(?![A-Za-z])")
_DECIMAL = re.compile(r"(?:[A-Za-z]\s*=\s*)?(-?\d+(?:,\d{3})*(?:\.\d+)?)")
_NONE = {"no solution", "no solutions", "none", "no real solution", "no real solutions", "empty set", "the empty set"}
_UNDEFINED = {"dne", "does not exist", "doesn't exist", "undefined"}


@dataclass(frozen=True)
class Marks:
    """What an answer says besides its value; a field is None if it says nothing of the kind."""

    modulus: str | None = None
    base: str | None = None
    domain: str | None = None
    point: str | None = None


@dataclass(frozen=True)
class Part:
    """One member of an answer: its value in LaTeX and what the words around it say."""

    value: str
    wording: Wording | None  # None if the words cannot be read
    words: tuple[str, ...] = ()  # of an answer without a value
    as_written: str = ""  # if its last letter may be a unit or a variable


def agree(gold: str, answer: str, read: Read) -> bool | None:
    """Whether two normalised answers are the same; None if `answer` cannot be read."""
    gold, answer = _prepare(gold), _prepare(answer)
    if gold == answer:
        return True
    words, other_words = _words_alone(gold), _words_alone(answer)
    if words is not None and other_words is not None:
        return _same_lists_of_words(words, other_words)
    for one, other in ((words, answer), (other_words, gold)):
        if one is not None and r"\emptyset" in other:
            return " ".join(word for part in one for word in part).casefold() in _NONE
    gold_marks, gold = _marks(gold)
    marks, answer = _marks(answer)
    if any(a is not None and b is not None and a != b for a, b in _pairs(gold_marks, marks)):
        return False
    answer = _same_parameter(answer, gold_marks, marks)
    if (gold_marks.base or marks.base) and gold.replace(" ", "").casefold() == answer.replace(" ", "").casefold():
        return True
    gold, answer = _without_names(gold, answer)
    ratio = _compare_ratios(gold, answer, read)
    if ratio is not None:
        return ratio
    sets = _compare_sets(gold, answer, read)
    if sets is not None:
        return sets
    if {_brackets(gold), _brackets(answer)} == {"{}", "()"}:
        return False  # Math-Verify takes a set for a pair
    if _LETTERS_IN_A_ROW.fullmatch(gold) and _LETTERS_IN_A_ROW.fullmatch(answer):
        orders = [re.findall(r"[A-Za-z]", text) for text in (gold, answer)]
        return orders[0] == orders[1] or sorted(orders[0]) == sorted(set(orders[1]))  # the order counts if one repeats
    if _LABEL.fullmatch(gold) or _LABEL.fullmatch(answer) or _DASHED.fullmatch(gold):
        return gold.replace(" ", "") == answer.replace(" ", "")
    names = _NAME_OF_POINTS.findall(gold), _NAME_OF_POINTS.findall(answer)
    if all(names) and names[0] != names[1] and sorted(names[0]) != sorted(names[1]):
        return False  # Math-Verify takes a triangle or an order of people for a product
    return _compare_parts(gold, answer, read)


def is_readable(gold: str, read: Read) -> bool:
    """Whether a normalised gold answer can be read: as words alone, as a whole, or member by member."""
    gold = _prepare(gold)
    if _words_alone(gold) is not None:
        return True
    _, value = _marks(gold)
    if _ratio(value) is not None or _number_set(value, read) is not None or read(value):
        return True
    return all(part.words or (part.wording is not None and read(part.value)) for part in _parts(value))


def _brackets(latex: str) -> str | None:
    if latex.startswith(r"\{") and latex.endswith(r"\}"):
        return "{}"
    return "()" if latex.startswith("(") and latex.endswith(")") else None


def _prepare(latex: str) -> str:
    latex = _JOINED_TEXT.sub(
        lambda match: "".join(rf"\text{{{piece}}}" for piece in match.groups() if piece.strip()), latex
    )
    latex = _APPROXIMATELY.sub("=", latex)
    latex = _ASIDE.sub(r"\\text{ \1}", _NUMBER_IN_TEXT.sub(r"\1", latex))
    latex = _PRIMES.sub(
        lambda match: r"\text{ inches}" if len(match[1]) > 1 or match[1] == '"' else r"\text{ feet}", latex
    )
    if found := _LETTER_IN_TEXT.fullmatch(latex):
        latex = found[1]
    if _NUMBERS_IN_A_ROW.fullmatch(latex):
        latex = "(" + ", ".join(latex.split()) + ")"
    latex = rewrite(_UNIT_FRACTION.sub(r"\1\\text{ \2}", latex))
    return latex.lstrip("= ").strip() if latex.lstrip().startswith("=") else latex.strip()


def _pairs(one: Marks, other: Marks) -> list[tuple[str | None, str | None]]:
    return [
        (one.modulus, other.modulus),
        (one.base, other.base),
        (_set_of(one), _set_of(other)),
        (one.point, other.point),
    ]


def _set_of(marks: Marks) -> str | None:
    return marks.domain[2:] if marks.domain else None


def _marks(latex: str) -> tuple[Marks, str]:
    modulus = base = domain = point = None
    if "mod" in latex and (found := _MODULUS.search(latex)) and found.start():
        modulus, latex = found[1], latex[: found.start()].strip().replace(r"\equiv", "=")
    if (found := _FOR_ANY.search(latex)) and found.start():
        latex = latex[: found.start()].strip()
    if (
        (found := _DOMAIN.search(latex))
        and latex[: found.start()].strip(" (")
        and not re.search(r"[<>=]\s*\Z", latex[: found.start()])
    ):
        name = found[2] or {"i": "Z", "n": "N", "r": "R", "c": "R"}[found[4][0]]
        domain, latex = f"{found[1]}:{name}{found[3] or ''}", latex[: found.start()].strip(" ,;")
    if found := _BASE.fullmatch(latex):
        base, latex = str(_NUMBER_NAMES.get(found[3], found[2] or found[3])), found[1]
    elif (found := _BASE_WORDS.search(latex)) and found.start():
        base, latex = str(_NUMBER_NAMES.get(found[1], found[1])), latex[: found.start()].strip()
    if found := _POINT.match(latex):
        point, latex = found[1], found[2]
    return Marks(modulus, base, domain, point), latex


def _same_parameter(answer: str, gold_marks: Marks, marks: Marks) -> str:
    """The answer with its parameter (the n of `n in Z`) renamed to that of the gold answer."""
    if not (gold_marks.domain and marks.domain):
        return answer
    new, old = gold_marks.domain[0], marks.domain[0]
    if re.search(rf"(?<![A-Za-z\\]){new}(?![A-Za-z])", answer):
        return answer
    return re.sub(rf"(?<![A-Za-z\\]){old}(?![A-Za-z])", new, answer)


def _without_names(gold: str, answer: str) -> tuple[str, str]:
    """Drop the names of two functions of the same letter (`f(x) =`, `y =`, `f =`), and that of a value (`f(2) =`)."""
    one, other = _NAMED.match(gold), _NAMED.match(answer)
    if one and other and (one[2] or other[2]) and not _is_number(one[2]) and not _is_number(other[2]):
        name = next((match[1] for match in (one, other) if not match[2]), None)
        if one[2] == other[2] if name is None else name in ("y", one[1] if one[2] else other[1]):
            return one[3], other[3]
    if one and not other and _is_number(one[2]) and "," not in one[2]:
        return one[3], answer
    return gold, answer


def _is_number(text: str | None) -> bool:
    return bool(text) and re.fullmatch(r"[-\d.,\s/]+", str(text)) is not None


def _words_alone(latex: str) -> list[list[str]] | None:
    """The words of each part of an answer that consists of words; None for any other answer."""
    if not re.search(r"[A-Za-z\u3040-\uffff]", latex):
        return None
    plain = _TEXT.sub(r" \1 ", latex)
    if re.search(r"[\\^_=<>+*/{}()\[\]|$%\d]", plain.replace(r"\ ", " ")):
        return None
    tokens = re.findall(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?|[,;]", plain)
    words = [token for token in tokens if token not in ",;"]
    if not words or all(len(word.rstrip(".")) == 1 for word in words):
        return None
    is_single = len(words) == 1 and r"\text" not in latex
    if is_single and (_PRODUCT.fullmatch(words[0]) or words[0] in quantities.FUNCTIONS):
        return None
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token in (",", ";", "and"):
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _same_lists_of_words(one: list[list[str]], other: list[list[str]]) -> bool:
    def single(parts: list[list[str]]) -> str:
        return " ".join(word for part in parts for word in part).casefold().rstrip(".")

    for synonyms in (_NONE, _UNDEFINED):
        if single(one) in synonyms and single(other) in synonyms:
            return True
    rest = list(other)
    for part in one:
        match = next((candidate for candidate in rest if quantities.same_words(part, candidate)), None)
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _compare_ratios(gold: str, answer: str, read: Read) -> bool | None:
    """The verdict on ratios and times of day; None if neither answer is one."""
    if ":" not in gold and ":" not in answer:
        return None
    one, other = (_ratio(text) for text in (gold, answer))
    if one is None or other is None:
        found = one or other
        if found is None or len(found[0]) != 2 or found[1].half_of_day:
            return None if found is None else False
        value = rf"\frac{{{found[0][0]}}}{{{found[0][1]}}}"
        return _compare_parts(value if one else gold, answer if one else value, read)
    (pieces, wording, names), (other_pieces, other_wording, other_names) = one, other
    if (names and other_names and names != other_names) or len(pieces) != len(other_pieces):
        return False
    if quantities.conversion(wording, other_wording) is None:
        return False
    times = [_TIME.fullmatch(":".join(part)) for part in (pieces, other_pieces)]
    if wording.half_of_day or other_wording.half_of_day or (all(times) and len(pieces) == 2):
        minutes = [
            _minutes(match, part.half_of_day) for match, part in zip(times, (wording, other_wording), strict=True)
        ]
        return (None not in minutes and minutes[0] == minutes[1]) or (
            pieces == other_pieces and not (wording.half_of_day and other_wording.half_of_day)
        )
    values = [[read(piece) for piece in part] for part in (pieces, other_pieces)]
    if not all(value for part in values for value in part):
        return False
    (first, *rest), (other_first, *other_rest) = ([value[0] for value in part] for part in values)
    return all(equal(product(a, other_first), product(b, first)) for a, b in zip(rest, other_rest, strict=True))


def _minutes(match: re.Match[str] | None, half_of_day: str) -> int | None:
    if match is None:
        return None
    hours = int(match[1])
    if half_of_day:
        hours = hours % 12 + (12 if half_of_day == "pm" else 0)
    return (hours * 60 + int(match[2])) * 60 + int(match[3] or 0)


def _ratio(latex: str) -> tuple[list[str], Wording, str] | None:
    """The members of a ratio, the words around it, and the names of its members."""
    latex = _RATIO_WORD.sub(":", latex)
    names = ""
    if found := _RATIO_NAMES.match(latex):
        names, latex = re.sub(r"[\s=]", "", found[0]), latex[found.end() :]
    before, value, after = quantities.split(latex)
    wording = quantities.read_wording(before, after)
    pieces = [piece.strip() for piece in value.split(":")]
    if len(pieces) < 2 or not all(pieces) or re.search(r"[=<>,]|\\[{}|]", value):
        return None
    return pieces, wording, names


def _compare_sets(gold: str, answer: str, read: Read) -> bool | None:
    """The verdict if both answers are sets of numbers and one is written as inequalities; None otherwise."""
    if not (_RELATION.search(gold) or _RELATION.search(answer)):
        return None
    one, other = _number_set(gold, read), _number_set(answer, read)
    if one is None or other is None:
        if _joint(gold) and _joint(answer) and _joint(gold) != _joint(answer):
            return False
        return None
    if one[1] and other[1] and one[1] != other[1]:
        return False
    return bool(one[0] == other[0]) or equal(one[0], other[0])


def _number_set(latex: str, read: Read) -> tuple[Any, Any] | None:
    """The set that inequalities of one letter describe, and the letter."""
    if found := _SET_BUILDER.match(latex):
        latex = found[1]
    joint = _joint(latex)
    pieces = re.split(r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\(?:lor|land|vee|wedge)(?![a-z])", latex)
    if joint is None and len(pieces) > 1:
        return None
    sets, letters = [], set()
    for piece in pieces:
        piece = piece.strip(" ,;")
        if found := _IN.match(piece):
            letters.add(found[1])
            piece = piece[found.end() :]
        expressions = read(piece) if piece else []
        described = as_set(expressions[0]) if expressions else None
        if described is None:
            return None
        sets.append(described[0])
        letters |= {str(letter) for letter in described[1]}
    if len(letters) > 1 or not sets:
        return None
    combined = sympy.Intersection(*sets) if joint == "and" else sympy.Union(*sets)
    return combined, next(iter(letters), None)


def _joint(latex: str) -> str | None:
    words = set(re.findall(r"(?<![A-Za-z\\])(and|or)(?![A-Za-z])", latex))
    words |= {"or" for name in (r"\lor", r"\vee") if name in latex} | {
        "and" for name in (r"\land", r"\wedge") if name in latex
    }
    return words.pop() if len(words) == 1 else None


def _compare_parts(gold: str, answer: str, read: Read) -> bool | None:
    """Compare member by member if there are words, and as a whole otherwise."""
    if not (quantities.may_have_words(gold) or quantities.may_have_words(answer)):
        return _equal_values(gold, answer, read)
    golds, parts = ([_part(text)] if quantities.compound(text) else _parts(text) for text in (gold, answer))
    if len(golds) == 1 and len(parts) == 1:
        return _equal_parts(golds[0], parts[0], read)
    if not any(_has_wording(part) for part in (*golds, *parts)):
        return _equal_values(", ".join(part.value for part in golds), ", ".join(part.value for part in parts), read)
    if len(golds) != len(parts):
        return False
    if all(_equal_parts(one, other, read) for one, other in zip(golds, parts, strict=True)):
        return True
    if not all(_has_wording(part) for part in (*golds, *parts)):
        return False
    rest = list(parts)
    for part in golds:
        match = next((candidate for candidate in rest if _equal_parts(part, candidate, read)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _has_wording(part: Part) -> bool:
    return bool(part.words) or part.wording is None or not part.wording.is_plain


def _parts(latex: str) -> list[Part]:
    """The members of a list at its top level: separated by commas, "and" or "or"."""
    return [_part(piece) for piece in _top_level(latex)]


@lru_cache(maxsize=4096)
def _part(latex: str) -> Part:
    before, value, after = quantities.split(latex)
    if not value:
        words = tuple(before + after)
        if len(words) == 1 and words[0].casefold() in quantities.NUMBER_WORDS:
            return Part(str(quantities.NUMBER_WORDS[words[0].casefold()]), Wording())
        return Part("", None, words)
    if not after and (letter := _UNIT_LETTER.search(value)):
        unit = [letter[1].strip(), *(["^" + letter[2]] if letter[2] else [])]
        wording = replace(quantities.read_wording(before, unit), is_letter=True)
        return Part(value[: letter.start()], wording, as_written=latex)
    if value in ("-", "+"):
        return Part(latex, None)
    if compound := quantities.compound(latex):
        return Part(rf"\frac{{{compound[0].numerator}}}{{{compound[0].denominator}}}", compound[1])
    wording = quantities.read_wording(before, after)
    return Part(latex, None) if quantities.has_words(value) else Part(value, wording)


def _top_level(latex: str) -> list[str]:
    pieces, depth, current = [], 0, ""
    for token in re.finditer(
        r"\\text\s*\{[^{}]*\}|\\[{}]|\\[a-zA-Z]+|\\.|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|.", latex, re.DOTALL
    ):
        text = token[0]
        word = _TEXT.fullmatch(text)
        if text in ("(", "[", "{", r"\{"):
            depth += 1
        elif text in (")", "]", "}", r"\}"):
            depth -= 1
        is_thousands = (
            text == ","
            and re.match(r",\d{3}(?!\d)", latex[token.start() :])
            and re.search(r"(?<![\d.])\d{1,3}(?:,\d{3})*\Z", latex[: token.start()])
        )
        if (
            depth <= 0
            and not is_thousands
            and (text in (",", ";", "and", "or") or (word and word[1].strip(" ,;") in ("and", "or")))
        ):
            pieces.append(current)
            current = ""
        else:
            current += text
    pieces.append(current)
    return [piece.strip() for piece in pieces if piece.strip()]


def _equal_parts(gold: Part, part: Part, read: Read) -> bool | None:
    if gold.words or part.words:
        return bool(gold.words and part.words) and quantities.same_words(list(gold.words), list(part.words))
    if gold.wording is None or part.wording is None:
        return None if part.wording is None else False
    if (gold.as_written or part.as_written) and _equal_values(
        gold.as_written or gold.value, part.as_written or part.value, read
    ):
        return True
    factor = quantities.conversion(gold.wording, part.wording)
    if factor is None or (gold.wording.is_letter and not part.wording.after):
        return False  # 5m may be a product, and 5 only a part of it
    one, other = gold.wording, part.wording
    factor *= other.scale / one.scale * (-1 if one.is_negative != other.is_negative else 1)
    if one.is_percent == other.is_percent:
        return _equal_values(gold.value, part.value, read, factor)
    return _equal_percent(gold.value, part.value, one.is_percent, read, factor)


def _equal_percent(gold: str, answer: str, gold_is_percent: bool, read: Read, factor: Fraction) -> bool | None:
    """50% is 0.5. It is also 50, but 0.5% is not 0.5, unless the gold answer is the percentage."""
    hundredth = factor * 100 if gold_is_percent else factor / 100
    if _equal_values(gold, answer, read, hundredth):
        return True
    values = read(answer)
    if not values:
        return None
    if not gold_is_percent and any(
        value.is_number and abs(value) < 1 for value in values if isinstance(value, sympy.Expr)
    ):
        return False
    return _equal_values(gold, answer, read, factor)


def _exact(latex: str, expressions: list[Any]) -> list[Any]:
    """The expressions of a value; a decimal becomes exact, because a conversion would blur its last digits."""
    found = _DECIMAL.fullmatch(latex)
    return [sympy.Rational(found[1].replace(",", ""))] if found else expressions


def _equal_values(gold: str, answer: str, read: Read, factor: Fraction = Fraction(1)) -> bool | None:
    golds, values = read(gold), read(answer)
    if not values:
        return None
    if factor != 1:
        golds, values = _exact(gold, golds), _exact(answer, values)
    # The larger unit is converted to the smaller one, because small numbers are compared less exactly.
    if factor > 1 or factor < 0:
        values = [product(value, sympy.Rational(factor.numerator, factor.denominator)) for value in values]
    elif factor != 1:
        golds = [product(value, sympy.Rational(factor.denominator, factor.numerator)) for value in golds]
    return any(equal(one, other) for one in golds for other in values if one is not None and other is not None)
