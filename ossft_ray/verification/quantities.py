r"""The words around a value: units, currencies, scales such as "million", signs, times of day, and all other words.

Nothing around a value is thrown away before answers are compared. `split` separates an answer in LaTeX into the words
before a value, the value, and the words after it; a `Wording` is what these words say. Two wordings agree if they are
the same, or convert (`5 km` and `5000 m`), or if one of them says nothing more than the value. Words that change a
value (`5 squared`, `less than 5`, `5 and 6`) must be in both.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ossft_ray.verification import units

Token = re.Match[str]


def _words(text: str) -> dict[str, int]:
    """The words of a text with their positions, so that a set of words takes few lines."""
    return {word: place for place, word in enumerate(text.split())}


_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "k": 1000,
    "quadrillion": 10**15,
    "mn": 10**6,
    "bn": 10**9,
    "lakh": 10**5,
    "crore": 10**7,
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "億": 10**8,
}
_PERCENT = {"%", "percent", "percentage", "pct"}
_NEGATIVE = {"negative", "minus"}
# Words before a value that say no more than that it is the answer.
_HARMLESS_BEFORE = _words(
    "about approximately approx roughly around circa ca exactly precisely equals equal to is are be was were "
    "has have it its that this there we get so thus therefore hence then the a an of total answer final value "
    "result only just simply"
)
# Words that number things: "Team 1" and 1 may be the same answer, "Team 1" and "Day 1" are not.
_LABELS = _words(
    "option team day week year month page step case statement plan figure question number grade level room "
    "item group method chapter choice row column stage"
)
# Words after a value that change it or introduce more values.
_CHANGES = _words(
    "and or to plus minus times more less fewer than over under above below squared cubed factorial half halves "
    "third thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths pair pairs "
    "couple couples twice double triple not no nor but if when unless except either neither between divided "
    "multiplied by from through until power powers root th st nd rd score gross remainder modulo mod choose up "
    "increased decreased hundreds thousands millions billions trillions ten tens twenty thirty forty fifty "
    "sixty seventy eighty ninety never non cannot doubled tripled halved fold mil"
)
_FILLERS = _words("a an the of in total altogether unit units exactly approximately about respectively")
NUMBER_WORDS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
FUNCTIONS = _words(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp max min gcd lcm mod det lim "
    "sqrt frac sup inf deg dim ker arg tr cdot times pi infty div lfloor rfloor"
)
_SHORT_WORDS = _words(
    "of in is at no rs us to or by on am pm ad bc up an if my we he as per all old any the and not has was are get off"
)

_ASIAN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_TOKEN = re.compile(
    r"(?P<text>\\text\s*\{(?P<inner>[^{}]*)\})|(?P<name>\\(?:begin|end|mathbb|mathcal|operatorname)\s*\{[^{}]*\})"
    r"|(?P<degree>\^\s*\{?\s*\\circ\s*\}?|\\degree\b)|(?P<percent>\\?%)|(?P<power>\^\s*(?:\{\s*-?\s*\d\s*\}|-?\d))"
    r"|(?P<dollar>\\\$)|(?P<command>\\(?:[A-Za-z]+|.))|(?P<half>[AaPp]\.\s?[Mm](?:\.|\b))"
    rf"|(?P<word>[A-Za-z]{{2,}}(?:['’-][A-Za-z]+|\.[A-Za-z]+)*\.?)|(?P<asian>{_ASIAN}+)|(?P<number>\d+)"
    r"|(?P<letter>[A-Za-z])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_IN_TEXT = re.compile(
    r"[AaPp]\.\s?[Mm](?:\.|\b)|pound_sterling|[A-Za-z]+(?:['’-][A-Za-z]+|\.[A-Za-z]+)*|[^\W\d_A-Za-z]+|\^-?\d"
    r"|\d+(?:\.\d+)?|[^\s\w]"
)
_MAY_HAVE_WORDS = re.compile(
    rf"\\text|%|\\\$|\\circ|\\degree|(?<![\\A-Za-z])[A-Za-z]{{2}}|{_ASIAN}|[\d}})]\s?[mghs]\Z|\d\s[A-Za-z]|/\s*[A-Za-z]\Z"
)
_BETWEEN_UNITS = {"/", r"\cdot", r"\times", "(", ")", ".", ",", "-", "'", r"\mu", r"\Omega"}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([^\d]+)")
_PART = re.compile(  # of a whole: 5 eighths
    r"(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|million|billion)ths?"
)
_JOINT = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z]))\s*")
_UNIT_LETTERS = "msghLNJWVAKC"
_SPELLED_COMMANDS = {r"\cdot": "*", r"\times": "*", r"\mu": "micro", r"\Omega": "ohm"}


@dataclass(frozen=True)
class Wording:
    """What the words around a value say."""

    name: units.Words = ()  # what the value is of, before "=" or ":"
    before: units.Words = ()  # words that are neither harmless, nor a sign, nor money
    after: units.Words = ()  # the unit and other words, in order
    scale: Fraction = Fraction(1)
    is_negative: bool = False
    is_percent: bool = False
    half_of_day: str = ""  # "am" or "pm"
    is_letter: bool = False  # a single letter after the value, which may be a variable: 5m

    @property
    def is_plain(self) -> bool:
        """Whether the value stands alone."""
        return self == Wording()


def may_have_words(latex: str) -> bool:
    """Whether an answer may have words around its value; a cheap test."""
    return _MAY_HAVE_WORDS.search(latex) is not None


def has_words(latex: str) -> bool:
    """Whether an answer has anything that reads as words, wherever it stands."""
    return any(_is_wordy(token, True) for token in _TOKEN.finditer(latex))


def split(latex: str) -> tuple[list[str], str, list[str]]:
    r"""Separate the words before a value, the value, and the words after it; words alone leave no value.

    >>> split(r"\text{about }5\text{ km/h}")
    (['about'], '5', ['km', '/', 'h'])
    """
    tokens = list(_TOKEN.finditer(latex))
    end = _start_of_tail(tokens)
    start = _end_of_head(tokens[:end])
    value = "".join(token[0] for token in tokens[start:end]).strip()
    return _words_of(tokens[:start]), value, _words_of(tokens[end:])


def split_head(latex: str) -> tuple[list[str], str]:
    """Separate the words before a value from the value and all after it."""
    tokens = list(_TOKEN.finditer(latex))
    start = _end_of_head(tokens)
    return _words_of(tokens[:start]), "".join(token[0] for token in tokens[start:])


def words_in(latex: str) -> list[str]:
    """The words, signs and numbers of a text, in order."""
    return _words_of(list(_TOKEN.finditer(latex)))


def read_wording(before: list[str], after: list[str]) -> Wording:
    """What the words around a value say."""
    head = [word.casefold().rstrip(".") for word in before]
    name: list[str] = []
    for end_of_name in ("=", ":"):  # "Area = "
        if end_of_name in head:
            place = len(head) - head[::-1].index(end_of_name)
            name, head = [word for word in head[: place - 1] if word not in _HARMLESS_BEFORE], head[place:]
    money = [units.CURRENCIES[word] for word in head if word in units.CURRENCIES]
    head = [word for word in head if word not in units.CURRENCIES and word not in (",", r"\approx", "~")]
    is_negative = bool(head) and head[-1] in _NEGATIVE
    head = head[:-1] if is_negative else head
    if set(head) <= _HARMLESS_BEFORE.keys():
        head = []
    tail = _normalised(after)
    scale = Fraction(1)
    while tail and (
        number := _SCALES.get(tail[0]) or _SCALES.get(tail[0].removesuffix("s") if "dozen" in tail[0] else "")
    ):
        scale *= number
        tail = tail[2:] if tail[1:2] == ["of"] else tail[1:]
    is_percent = bool(tail) and tail[0] in _PERCENT
    if is_percent:
        tail = tail[2:] if tail[1:2] in (["point"], ["points"]) else tail[1:]
    half = re.sub(r"[.\s]", "", tail[0]) if tail else ""
    half, tail = (half, tail[1:]) if half in ("am", "pm") else ("", tail)
    tail = money[:1] + [word for word in tail if not (money and units.CURRENCIES.get(word) == money[0])]
    return Wording(tuple(name), tuple(head), tuple(tail), scale, is_negative, is_percent, half)


def compound(latex: str) -> tuple[Fraction, Wording] | None:
    """The value and the wording of an amount in several units, such as 2 h 30 min; None for anything else."""
    latex = _JOINT.sub(" ", latex)
    if len(latex) > 200 or not latex[:1].isdigit():
        return None
    amounts = list(_AMOUNT.finditer(latex))
    if len(amounts) < 2 or "".join(amount[0] for amount in amounts) != latex:
        return None
    total = Fraction(0)
    after: units.Words = ()
    for amount in amounts:
        words = tuple(_normalised(words_in(amount[2])))
        after = after or words
        (unit, others), (first, _) = units.leading_unit(words), units.leading_unit(after)
        factor = None if unit is None or others else units.factor(unit, first)
        if factor is None:
            return None
        total += Fraction(amount[1]) * factor
    return total, Wording(after=after)


def conversion(gold: Wording, other: Wording) -> Fraction | None:
    """The factor from the unit of `other` to that of `gold`, without the scales; None if the two contradict.

    Temperatures, whose scales have offsets, convert only to themselves.
    """
    if gold.half_of_day and other.half_of_day and gold.half_of_day != other.half_of_day:
        return None
    if gold.name and other.name and gold.name != other.name:
        return None
    if gold.before != other.before and (
        (gold.before and other.before) or not {*gold.before, *other.before} <= _LABELS.keys()
    ):
        return None
    after, other_after = _same_pounds(gold.after, other.after), _same_pounds(other.after, gold.after)
    if gold.is_percent != other.is_percent and any(unit_of(words) is not None for words in (after, other_after)):
        return None  # $5 and 5%
    if _plain(after) == _plain(other_after):
        return Fraction(1)
    if not after or not other_after:
        return None if _changes(after) or _changes(other_after) else Fraction(1)
    (unit, rest), (other_unit, other_rest) = _unit_and_rest(after), _unit_and_rest(other_after)
    words, other_words = set(_plain(rest)), set(_plain(other_rest))
    if words != other_words and ((words and other_words) or _changes(rest) or _changes(other_rest)):
        return None
    if unit is not None and other_unit is not None:
        return units.factor(other_unit, unit)
    if unit is None and other_unit is None:
        return Fraction(1)
    return Fraction(1) if words == other_words else None  # "units" is a filler, and so agrees with any unit


def unit_of(after: units.Words) -> Any:
    """The unit that words after a value begin with; None if there is none."""
    return units.leading_unit(after)[0] if after else None


def same_words(one: list[str], other: list[str]) -> bool:
    """Whether two answers that consist of words are the same; case counts only for single letters."""

    def plain(words: list[str]) -> list[str]:
        kept = [word.rstrip(".,;:!?").strip("\"'") for word in words]
        kept = [word if len(word) == 1 else word.casefold() for word in kept if word]
        return kept[1:] if len(kept) > 1 and kept[0].casefold() in ("the", "a", "an") else kept

    return plain(one) == plain(other)


def _changes(after: units.Words) -> bool:
    """Whether words after a value say more than what is counted or measured."""
    changes = {
        word for word in after if word in _CHANGES or word in _PERCENT or word[0].isdigit() or _PART.fullmatch(word)
    }
    if changes and changes <= {"squared", "cubed"}:  # "meters squared"
        return unit_of(after[:1]) is None
    return bool(changes)


def _unit_and_rest(after: units.Words) -> tuple[Any, units.Words]:
    """The unit and the other words; what money is paid for is not a unit: `$18 per day` is 18 dollars."""
    if after[0] in units.CURRENCIES.values():
        return units.leading_unit(after[:1])[0], after[1:]
    return units.leading_unit(after)


def _plain(words: units.Words) -> list[str]:
    kept = [word for word in words if word not in _FILLERS]
    return [word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word for word in kept]


def _same_pounds(words: units.Words, opposite: units.Words) -> units.Words:
    """Read "pounds" as money if the other answer is in pounds sterling."""
    sterling = "pound_sterling"
    return tuple(sterling if word in ("pound", "pounds") and sterling in opposite else word for word in words)


def _normalised(words: list[str]) -> list[str]:
    """The words after a value in one form: in lower case, Chinese units translated, numbers in parentheses left out."""
    pieces: list[str] = []
    depth = 0
    for word in words:
        if word in "()":
            depth += 1 if word == "(" else -1
        elif word in ",;:.\"'!" or (depth > 0 and word.casefold() in NUMBER_WORDS):
            continue
        elif re.match(_ASIAN, word):
            scale = [word[0]] if word[0] in _SCALES and len(word) > 1 else []
            pieces += [*scale, *units.translate(word[len(scale) :])]
        else:
            pieces.append(units.CURRENCIES.get(word.casefold().rstrip("."), word))
    return [word.casefold() if _is_spelled(word) else word for word in pieces]


def _is_spelled(word: str) -> bool:
    """Whether the case of a word does not matter; it tells MHz from mHz, and K from k."""
    if len(word) == 1 or units.SYMBOL.fullmatch(word) or not (word.islower() or word.isupper() or word.istitle()):
        return word.casefold() in _CHANGES
    return True


def _is_wordy(token: Token, after_space: bool) -> bool:
    r"""Whether a token is a word and not mathematics: `\text{...}`, `apples`, but not `xy` or `sin`."""
    if token["text"] is not None:
        return bool(token["inner"].strip())
    if token["asian"] or token["half"]:
        return True
    if token["word"] is None:
        return False
    word = token[0].rstrip(".")
    if word in FUNCTIONS and word not in ("min", "sec", "deg"):
        return False
    if units.SYMBOL.fullmatch(word):
        return True
    if len(word) < 4:
        is_spoken = len(word) == 3 and word[1:].islower() and (word[1] in "aeiou" or word.istitle())
        return after_space and (is_spoken or (word.lower() in _SHORT_WORDS or word.lower() in _CHANGES))
    return word[1:].islower() or "-" in word or "'" in word


def _start_of_tail(tokens: list[Token]) -> int:
    """The index of the first token after the value."""
    position = start = len(tokens)
    while position:
        position -= 1
        token, previous = tokens[position], tokens[position - 1] if position else None
        spaced = previous is None or previous["space"] is not None or previous["asian"] is not None
        if token["text"] is not None or token["asian"] or token["half"] or token["percent"] or token["degree"]:
            start = position
        elif token["word"]:
            if not _is_wordy(token, spaced):
                break
            start = position
        elif token["letter"]:
            if not _is_unit_letter(tokens, position, start):
                break
            start = position
        elif token[0] == r"\mu" and start - position in (1, 2):
            start = position
        elif not (token["space"] or token["power"] or token[0] in _BETWEEN_UNITS):
            break
    # A parenthesis that opens before the tail does not belong to it.
    depth = 0
    for index in range(start, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index][0], 0)
        if depth < 0:
            start, depth = index + 1, 0
    return start


def _is_unit_letter(tokens: list[Token], index: int, tail: int) -> bool:
    """Whether a single letter belongs to the words after a value: `km/h`, `m/s`, `20 °C`, `a` in `$18 a week`."""
    letter = tokens[index][0]
    previous, before = (tokens[index - step] if index >= step else None for step in (1, 2))
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    if letter in "aA" and following is not None and following["space"] and tail == index + 2 < len(tokens):
        return True
    if previous is None:
        return False
    if previous[0] in ("/", r"\cdot") and before is not None:
        is_unit = before["word"] or before["letter"] or before["text"] or before["power"] or before["space"]
        return bool(is_unit) and letter in _UNIT_LETTERS
    if r"\mu" in (previous[0], before and before[0]):
        return letter in _UNIT_LETTERS
    if previous["space"] and before is not None and before[0] in ("sq", "square", "cu", "cubic"):
        return letter == "m"
    if previous["degree"] or (previous["space"] and before is not None and before["degree"]):
        return letter in "CFK"
    if tail == index + 2 and following is not None and following[0] == "/":
        return letter in _UNIT_LETTERS and (previous["number"] is not None or previous["space"] is not None)
    return False


def _end_of_head(tokens: list[Token]) -> int:
    """The index of the first token of the value."""
    end = 0
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else None
        if (
            token["text"] is not None
            or token["dollar"]
            or token["asian"]
            or (
                token["word"]
                and _is_wordy(token, True)
                and not (following is not None and following[0] in ("_", "(", "^"))
            )
            or (
                token[0] in (":", "=", r"\approx", ",")
                and (end == position or (token[0] != "," and 0 < end == position - 1))
            )
        ):
            end = position + 1
        elif not token["space"] and not _is_article(tokens, position):
            break
    return end


def _is_article(tokens: list[Token], index: int) -> bool:
    return (
        tokens[index][0] in "aA"
        and index + 2 < len(tokens)
        and bool(tokens[index + 1]["space"] and tokens[index + 2]["word"])
    )


def _words_of(tokens: list[Token]) -> list[str]:
    words: list[str] = []
    for token in tokens:
        if token["text"] is not None:
            inner = (
                token["inner"].replace(r"^\circ", " degree ").replace("^{", "^").replace("\\$", "$").replace("\\%", "%")
            )
            words += _IN_TEXT.findall(inner)
        elif token["degree"]:
            words.append("degree")
        elif token["percent"]:
            words.append("%")
        elif token["dollar"]:
            words.append("$")
        elif token["power"]:
            words.append("^" + re.sub(r"[^\d-]", "", token[0]))
        elif not token["space"]:
            words.append(_SPELLED_COMMANDS.get(token[0], token[0]))
    return words
