r"""The words around a value: units, currencies, scales such as "million", signs, times of day, and all other words.

Nothing around a value is thrown away before answers are compared. `split` separates an answer in LaTeX into the words
before a value, the value, and the words after it; `Wording` is what these words say. Two answers agree if what they
say is the same, or converts (`5 km` and `5000 m`), or if one of them says nothing more than the value. Words that
change a value (`5 squared`, `less than 5`, `5 and 6`) never agree with their absence. The units are pint's.
"""

import re
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

import pint

_SCALES = {
    **{"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15},
    **{"lakh": 10**5, "crore": 10**7, "mn": 10**6, "bn": 10**9, "dozen": 12, "百": 100, "千": 1000, "万": 10**4},
    **{"亿": 10**8, "億": 10**8, "萬": 10**4},
}
_PERCENT = {"%", "percent", "percentage", "pct"}
_NEGATIVE = {"negative", "minus"}
# Words before a value that say no more than that it is the answer.
_HARMLESS_BEFORE = set(
    "about approximately approx roughly around circa ca exactly precisely equals equal to is are be was were has have it "
    "its that this there we get so thus therefore hence then the a an of total answer final value result only just "
    "simply at most_recently".split()
) - {"at", "most_recently"}
# Words that number things: "Team 1" and 1 may be the same answer, "Team 1" and "Day 1" are not.
_LABELS = set(
    "option team day week year month page step case statement plan figure question number no grade level room item "
    "group method chapter choice row column stage".split()
)
# Words after a value that change it, or that tell more values.
_CHANGES = set(
    "and or to plus minus times more less fewer than over under above below squared cubed factorial half halves third "
    "thirds quarter quarters fourth fourths fifth fifths tenth tenths hundredth hundredths pair pairs couple couples "
    "twice double triple not no nor but if when unless except either neither between divided multiplied by from through "
    "until power powers root th st nd rd score gross degreesbelow remainder modulo mod choose up increased decreased "
    "hundreds thousands millions billions trillions ten tens twenty thirty forty fifty sixty seventy eighty ninety".split()
) - {"degreesbelow"}
_NEGATIONS = {"not", "no", "never", "nor", "neither", "non", "cannot"}
_FILLERS = {"a", "an", "the", "of", "in", "total", "altogether", "unit", "units", "exactly", "approximately", "about", "respectively"}
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
).split()

_CURRENCY_NAMES = {
    **dict.fromkeys(("$", "usd", "dollar", "dollars", "buck", "bucks", "美元"), "dollar"),
    **dict.fromkeys(("cent", "cents", "¢", "美分"), "cent"),
    **dict.fromkeys(("euro", "euros", "eur", "欧元"), "euro"),
    **dict.fromkeys(("pound_sterling", "gbp", "quid", "英镑"), "pound_sterling"),
    **dict.fromkeys(("penny", "pence", "pennies"), "penny"),
    **dict.fromkeys(("yuan", "rmb", "cny", "元", "块", "人民币", "yen", "jpy", "円", "日元"), "yuan"),
    **dict.fromkeys(("角",), "jiao"),
    **dict.fromkeys(("rs", "inr", "rupee", "rupees", "卢比"), "rupee"),
    **dict.fromkeys(("won", "krw"), "won"),
    **dict.fromkeys(("ruble", "rubles", "rub"), "ruble"),
}
_CURRENCIES = {name for name in _CURRENCY_NAMES.values()}
_MORE_UNITS = (
    *("dollar = [dollar]", "cent = 0.01 * dollar", "euro = [euro]", "pound_sterling = [pound_sterling]"),
    *("penny = 0.01 * pound_sterling", "yuan = [yuan]", "jiao = 0.1 * yuan", "rupee = [rupee]", "won = [won]", "ruble = [ruble]"),
)
_CJK_UNITS = {
    **{"千米": "km", "公里": "km", "米": "m", "公尺": "m", "分米": "dm", "厘米": "cm", "公分": "cm", "毫米": "mm", "微米": "um"},
    **{"千克": "kg", "公斤": "kg", "克": "g", "毫克": "mg", "吨": "tonne", "升": "liter", "毫升": "ml", "秒": "s"},
    **{"分钟": "minute", "小时": "hour", "天": "day", "日": "day", "周": "week", "年": "year", "度": "degree", "公顷": "hectare"},
    **{"牛": "newton", "牛顿": "newton", "焦": "joule", "焦耳": "joule", "瓦": "watt", "伏": "volt", "安": "ampere", "英里": "mile"},
}
_CJK_POWERS = {"平方": "^2", "立方": "^3"}
_COUNTERS = set("个只人本张条头件名位支辆棵朵枚块次种份套间座颗粒题")

_UNIT_SYMBOL = re.compile(
    r"(?:[kMGTcdmnpuμ]?(?:m|g|L|l|N|J|W|V|A|Pa|Hz|eV|B|bit|mol|cal|Wh|s)|ft|in|yd|mi|hr|hrs|min|mins|sec|secs|mph|kph|kmh|kmph"
    r"|lb|lbs|oz|rad|deg|degC|degF|atm|bar|psi|rpm|mL|cc|sq|cu|pm|am|USD|EUR|GBP|RMB|CNY|INR|AD|BC|BCE|CE|yr|yrs|cm|ms)\.?"
)
FUNCTIONS = set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp max min gcd lcm mod det lim sqrt frac sup inf "
    "deg dim ker arg tr cdot times pi infty div lfloor rfloor".split()
)
_TOKEN = re.compile(
    r"(?P<text>\\text\s*\{(?P<inner>[^{}]*)\})|(?P<name>\\(?:begin|end|mathbb|mathcal|operatorname)\s*\{[^{}]*\})|(?P<degree>\^\s*\{?\s*\\circ\s*\}?|\\degree\b)|(?P<percent>\\?%)"
    r"|(?P<power>\^\s*(?:\{\s*-?\s*\d\s*\}|-?\d))|(?P<dollar>\\\$)|(?P<command>\\(?:[A-Za-z]+|.))"
    r"|(?P<half>[AaPp]\.\s?[Mm](?:\.|\b))|(?P<word>[A-Za-z]{2,}(?:['’-][A-Za-z]+|\.[A-Za-z]+)*\.?)"
    r"|(?P<cjk>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)|(?P<number>\d+)|(?P<letter>[A-Za-z])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_PIECE = re.compile(
    r"[a-z]\.\s?m\b\.?|[^\W\d_]+(?:['’-][^\W\d_]+)*(?:\^-?\d)?|_?pound_sterling|[$¢%/*()^]|\^-?\d|\d+|[^\s\w]", re.IGNORECASE
)
_CONTEXT = Context(prec=40)
_WORDS = re.compile(
    r"\\text|%|\\\$|\\circ|\\degree|(?<![\\A-Za-z])[A-Za-z]{2}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[\d})]\s?[mghs]\Z|\d\s[A-Za-z]|/\s*[A-Za-z]\Z"
)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([^\d]+)")
_JOINT = re.compile(r"\s*,?\s*(?:\\text\s*\{\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z]))\s*")


@dataclass(frozen=True)
class Wording:
    """What the words around a value say; `before` and `after` are in lower case and without the words of the rest."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()  # unit and other words, in order
    scale: Fraction = Fraction(1)
    is_negative: bool = False
    is_percent: bool = False
    half_of_day: str = ""  # "am" or "pm"
    is_letter: bool = False  # a single letter after the value, which may be a variable: 5m

    @property
    def is_plain(self) -> bool:
        """Whether the value stands alone."""
        return self == Wording()


def split(latex: str) -> tuple[list[str], str, list[str]]:
    r"""Separate the words before a value, the value, and the words after it; all words alone leave no value.

    >>> split(r"\text{about }5\text{ km/h}")
    (['about'], '5', ['km', '/', 'h'])
    """
    tokens = list(_TOKEN.finditer(latex))
    end = _start_of_tail(tokens)
    start = _end_of_head(tokens[:end])
    before = [word for token in tokens[:start] for word in _words_of(token)]
    after = [word for token in tokens[end:] for word in _words_of(token)]
    value = "".join(token[0] for token in tokens[start:end]).strip()
    return before, value, after


def split_head(latex: str) -> tuple[list[str], str]:
    """Separate the words before a value from the value and all after it."""
    tokens = list(_TOKEN.finditer(latex))
    start = _end_of_head(tokens)
    return [word for token in tokens[:start] for word in _words_of(token)], "".join(token[0] for token in tokens[start:])


def words_in(latex: str) -> list[str]:
    """The words, signs and numbers of a text, in order."""
    return [word for token in _TOKEN.finditer(latex) for word in _words_of(token)]


def temperature(value: Decimal, source: Wording, target: Wording) -> Decimal | None:
    """A temperature in the scale of another; None for anything but two temperatures."""
    one, other = unit_of(source.after), unit_of(target.after)
    if one is None or other is None or not any("degree_" in str(unit) for unit in (one, other)):
        return None
    try:
        return Decimal(registry().Quantity(value, one).to(other).magnitude)
    except (pint.PintError, ArithmeticError, TypeError):
        return None


def may_have_words(latex: str) -> bool:
    """Whether an answer may have words around its value; a cheap test."""
    return _WORDS.search(latex) is not None


def compound(latex: str) -> tuple[Fraction, Wording] | None:
    """The value and the wording of an amount in several units, such as 2 h 30 min; None for anything else."""
    latex = _JOINT.sub(" ", latex)
    if len(latex) > 200 or not latex[:1].isdigit():
        return None
    amounts = list(_AMOUNT.finditer(latex))
    if len(amounts) < 2 or "".join(amount[0] for amount in amounts) != latex:
        return None
    total, after = Fraction(0), ()
    for amount in amounts:
        words = tuple(_pieces(words_in(amount[2])))
        unit, others = _unit_of(words)
        after = after or words
        factor = None if unit is None or others else _factor(unit, _unit_of(after)[0])
        if factor is None:
            return None
        total += Fraction(amount[1]) * factor
    return total, Wording(after=after)


def has_words(latex: str) -> bool:
    """Whether an answer has anything that reads as words, wherever it stands."""
    return any(_is_wordy(token, True) for token in _TOKEN.finditer(latex))


def read_wording(before: list[str], after: list[str]) -> Wording:
    """What the words around a value say."""
    wording, head = Wording(), [word.casefold().rstrip(".") for word in before]
    for name_end in ("=", ":"):  # "Area = "
        if name_end in head:
            head = head[len(head) - head[::-1].index(name_end) :]
    tail = _pieces(after)
    money = [_CURRENCY_NAMES[word] for word in head if word in _CURRENCY_NAMES]
    head = [word for word in head if word not in _CURRENCY_NAMES and word not in ("=", ":", ",", r"\approx", "~")]
    if head and head[-1] in _NEGATIVE:
        wording, head = replace(wording, is_negative=True), head[:-1]
    if all(word in _HARMLESS_BEFORE for word in head):
        head = []
    scale = Fraction(1)
    while tail and (tail[0] in _SCALES or tail[0].removesuffix("s") == "dozen"):
        scale *= _SCALES[tail[0].removesuffix("s") if tail[0] not in _SCALES else tail[0]]
        tail = tail[1:]
        if tail[:1] == ["of"]:
            tail = tail[1:]
    is_percent = bool(tail) and tail[0] in _PERCENT
    if is_percent:
        tail = tail[1:]
        if tail[:1] in (["points"], ["point"]):
            tail = tail[1:]
    half = ""
    if tail and re.sub(r"[.\s]", "", tail[0]) in ("am", "pm"):
        half, tail = re.sub(r"[.\s]", "", tail[0]), tail[1:]
    tail = money[:1] + [word for word in tail if not (money and _CURRENCY_NAMES.get(word) == money[0])]
    return replace(
        wording, before=tuple(head), after=tuple(tail), scale=scale, is_percent=is_percent, half_of_day=half
    )


def says_nothing_more(wording: Wording) -> bool:
    """Whether the words name only what is counted or measured, so that the value alone is the same answer."""
    words = set(wording.after)
    changes = words & _CHANGES
    if changes and _unit_of(wording.after)[0] is not None and not _unit_of(wording.after)[1] & _CHANGES:
        changes = set()  # "meters squared"
    return not changes and not any(word.isdigit() for word in words) and set(wording.before) <= _LABELS


def conversion(gold: Wording, other: Wording) -> Fraction | None:
    """The factor from the unit of `other` to that of `gold`, without the scales; None if the two contradict.

    Temperatures, whose scales have offsets, convert only to themselves.
    """
    if gold.is_percent and other.after or other.is_percent and gold.after:
        if not gold.is_percent or not other.is_percent:
            if unit_of(gold.after) is not None or unit_of(other.after) is not None:
                return None  # $5 and 5%
    if gold.half_of_day and other.half_of_day and gold.half_of_day != other.half_of_day:
        return None
    if gold.before != other.before and (gold.before and other.before or not set(gold.before + other.before) <= _LABELS):
        return None
    if _plain_words(gold.after) == _plain_words(other.after):
        return Fraction(1)
    if not gold.after or not other.after:
        return Fraction(1) if says_nothing_more(gold) and says_nothing_more(other) else None
    after, other_after = (tuple(words) for words in _same_pounds(gold.after, other.after))
    (unit, words), (other_unit, other_words) = _unit_of(after), _unit_of(other_after)
    if words != other_words and (words and other_words or (words | other_words) & _CHANGES or (words | other_words) & _NEGATIONS):
        return None
    if unit is None and other_unit is None:
        return Fraction(1) if words and other_words and words == other_words else None
    if unit is None or other_unit is None:
        return Fraction(1) if words == other_words or not (gold.after and other.after and (words or other_words)) else None
    factor = _factor(other_unit, unit)
    return factor


def _same_pounds(one: tuple[str, ...], other: tuple[str, ...]) -> list[list[str]]:
    """Read "pounds" as money if the other answer is in pounds sterling."""
    sterling = "pound_sterling"
    return [
        [sterling if word in ("pound", "pounds") and sterling in opposite else word for word in words]
        for words, opposite in ((one, other), (other, one))
    ]


def same_words(one: list[str], other: list[str]) -> bool:
    """Whether two answers that consist of words are the same; the case counts for single letters only."""

    def plain(words: list[str]) -> list[str]:
        kept = [word.rstrip(".,;:!?").strip("\"'") for word in words]
        kept = [word if len(word) == 1 else word.casefold() for word in kept if word]
        return [word for index, word in enumerate(kept) if word.casefold() not in ("the", "a", "an") or len(kept) == 1 or index]

    return plain(one) == plain(other)


def unit_of(words: tuple[str, ...]) -> Any:
    """The unit that words after a value name, for conversion with pint; None if pint knows none."""
    return _unit_of(words)[0]


@cache
def registry() -> Any:
    """Pint's units and currencies, in decimals. Loading it takes a second."""
    units = pint.UnitRegistry(non_int_type=Decimal)
    for definition in _MORE_UNITS:
        units.define(definition)
    return units


def _is_wordy(token: re.Match[str], after_space: bool) -> bool:
    """Whether a token is a word and not mathematics: `\\text{...}`, `apples`, but not `xy` or `sin`."""
    kind, text = token.lastgroup, token[0]
    if kind == "inner" or token["text"] is not None:
        return bool(token["inner"].strip())
    if token["cjk"] or token["half"]:
        return True
    if token["word"] is None:
        return False
    word = text.rstrip(".")
    if word in FUNCTIONS and word not in ("min", "sec", "deg"):
        return False
    if _UNIT_SYMBOL.fullmatch(word):
        return True
    is_lower = word[1:].islower()
    if len(word) == 2:
        return after_space and word.lower() in ("of", "in", "is", "at", "no", "rs", "us", "to", "or", "by", "on", "am", "pm", "ad", "bc", "up", "an", "if", "my", "we", "he", "as")
    if len(word) == 3:
        return after_space and is_lower and (word[1] in "aeiou" or word in _CHANGES | _FILLERS | _HARMLESS_BEFORE | {"per", "all", "old", "any"})
    return is_lower or "-" in word or "'" in word


def _start_of_tail(tokens: list[re.Match[str]]) -> int:
    """The index of the first token after the value."""
    position = len(tokens)
    best = position
    while position:
        token = tokens[position - 1]
        spaced = position < 2 or tokens[position - 2]["space"] is not None or tokens[position - 2]["cjk"] is not None
        follows_value = position >= 2 and (tokens[position - 2]["number"] or tokens[position - 2][0] in ("}", ")"))
        if token["text"] is not None or token["cjk"] or token["half"] or token["percent"] or token["degree"]:
            best = position - 1
        elif token["word"] and (_is_wordy(token, spaced) and (spaced or _UNIT_SYMBOL.fullmatch(token[0].rstrip(".")) or len(token[0]) > 3 or not follows_value)):
            best = position - 1
        elif token["letter"] and _may_be_unit(tokens, position - 1, best):
            best = position - 1
        elif token["space"] or token["power"] or token[0] in ("/", r"\cdot", r"\times", "(", ")", ".", ",", "-", "'", r"\mu", r"\Omega", r"\mid"):
            pass
        else:
            break
        position -= 1
    # A parenthesis that opened before the tail does not belong to it.
    while best < len(tokens) and "".join(token[0] for token in tokens[best:]).count(")") > "".join(token[0] for token in tokens[best:]).count("("):
        closing = next(index for index in range(len(tokens) - 1, best - 1, -1) if tokens[index][0] == ")" or index == best)
        best = closing + 1
    return best


def _may_be_unit(tokens: list[re.Match[str]], index: int, tail: int) -> bool:
    """Whether a single letter is a unit: `5 m`, `km/h`, `m s`, or an article before a word (`a week`)."""
    letter, previous = tokens[index][0], tokens[index - 1] if index else None
    if index + 1 < len(tokens) and tail <= index + 2 and tokens[index + 1]["space"] and letter in "aA":
        return tail == index + 2 and tail < len(tokens)
    if previous is None:
        return False
    before = tokens[index - 2] if index > 1 else None
    if previous[0] in ("/", r"\cdot") and before is not None:
        return bool(before["word"] or before["letter"] or before["text"] or before["power"] or before["space"]) and letter in "msghLNJWVAKC"
    if previous["degree"] or previous["space"] and before is not None and before["degree"]:
        return letter in "CFK"
    if tail == index + 1 and index + 1 < len(tokens) and tokens[index + 1][0] == "/":
        return letter in "msghLNJWVAKC" and (previous["number"] is not None or previous["space"] is not None)
    return False


def _end_of_head(tokens: list[re.Match[str]]) -> int:
    """The index of the first token of the value."""
    best = position = 0
    while position < len(tokens):
        token = tokens[position]
        following = tokens[position + 1] if position + 1 < len(tokens) else None
        if token["text"] is not None or token["dollar"] or token["cjk"]:
            best = position + 1
        elif token["word"] and _is_wordy(token, True) and not (following is not None and following[0] in ("_", "(", "^")):
            best = position + 1
        elif token["letter"] and token[0] in "aA" and following is not None and following["space"] and position + 2 < len(tokens) and tokens[position + 2]["word"]:
            pass
        elif token["space"]:
            pass
        elif token[0] in (":", "=", r"\approx", ",") and best == position or token[0] in (":", "=", r"\approx") and best == position - 1 and best:
            best = position + 1
        else:
            break
        position += 1
    return best


def _words_of(token: re.Match[str]) -> list[str]:
    if token["text"] is not None:
        return _split_text(token["inner"])
    if token["space"]:
        return []
    if token["degree"]:
        return ["degree"]
    if token["percent"]:
        return ["%"]
    if token["dollar"]:
        return ["$"]
    if token["power"]:
        return ["^" + re.sub(r"[^\d-]", "", token[0])]
    return [{r"\cdot": "*", r"\times": "*", r"\mu": "micro", r"\Omega": "ohm"}.get(token[0], token[0])]


def _split_text(text: str) -> list[str]:
    return [piece for piece in re.findall(r"[AaPp]\.\s?[Mm](?:\.|\b)|pound_sterling|[A-Za-z]+(?:['’-][A-Za-z]+|\.[A-Za-z]+)*|[^\W\d_A-Za-z]+|\^\{?-?\d\}?|\d+(?:\.\d+)?|[^\s\w]", text.replace(r"^\circ", " degree ").replace("^{", "^").replace("\\$", "$").replace("\\%", "%"))]


def _pieces(words: list[str]) -> list[str]:
    """The words after a value in one form: without case, with CJK units translated and parentheses left out."""
    pieces: list[str] = []
    depth = 0
    for word in words:
        if word in "()":
            depth += 1 if word == "(" else -1
        elif depth > 0 and word.casefold() in NUMBER_WORDS:
            continue
        elif word in (",", ";", ":", ".", '"', "'", "!"):
            continue
        elif re.match(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]", word):
            pieces += _cjk_pieces(word)
        else:
            pieces.append(word)
    lowered = [_CURRENCY_NAMES.get(word.casefold().rstrip("."), word) for word in pieces]
    return [word.casefold() if _is_spelled(word) else word for word in lowered]


def _is_spelled(word: str) -> bool:
    """Whether the case of a word says nothing; it tells MHz from mHz, and K from k."""
    if len(word) == 1 or _UNIT_SYMBOL.fullmatch(word) or not (word.islower() or word.isupper() or word.istitle()):
        return word.casefold() in _CHANGES
    return True


def _cjk_pieces(word: str) -> list[str]:
    if word[0] in _SCALES and len(word) > 1:
        return [word[0], *_cjk_pieces(word[1:])]
    for prefix, power in _CJK_POWERS.items():
        if word.startswith(prefix) and (unit := _CJK_UNITS.get(word.removeprefix(prefix))):
            return [unit, power]
    if word in _CJK_UNITS:
        return [_CJK_UNITS[word]]
    name = _CURRENCY_NAMES.get(word)
    return [name] if name else [] if word in _COUNTERS else [word]


def _plain_words(words: tuple[str, ...]) -> list[str]:
    return [_singular(word) for word in words if word not in _FILLERS]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=4096)
def _unit_of(words: tuple[str, ...]) -> tuple[Any, frozenset[str]]:
    """The unit at the start of the words after a value, and the other words."""
    for size in range(min(len(words), 8), 0, -1):
        unit = _parse_unit(words[:size])
        if unit is not None:
            rest = words[size:]
            return unit, frozenset(_plain_words(rest))
    return None, frozenset(_plain_words(words))


_ANGLES = {"degree", "degrees", "deg", "rad", "radian", "radians", "percent"}
_NOT_UNITS = {"point", "points", "hand", "hands", "year old", "mark", "marks", "count", "counts", "turn", "turns", "am", "pm", "in the"}


def _parse_unit(words: tuple[str, ...]) -> Any:
    text = _unit_text(words)
    if text is None or len(text) > 60:
        return None
    try:
        unit = registry().parse_units(text)
    except Exception:  # pint raises its own errors, and errors of the tokenizer and of arithmetic
        return None
    is_number = unit.dimensionless and str(unit) in ("dimensionless", "")
    return None if is_number else unit


def _unit_text(words: tuple[str, ...]) -> str | None:
    """A unit in pint's notation: `square meters` is meter**2, `miles per hour` is mile/hour."""
    if words and words[0] in _NOT_UNITS:
        return None
    parts: list[str] = []
    power = ""
    pending = ""
    micro = ""
    for index, word in enumerate(words):
        if word in ("square", "sq", "squared") or word in ("cubic", "cu", "cubed"):
            exponent = "**2" if word.startswith("sq") else "**3"
            if word in ("squared", "cubed"):
                if not parts:
                    return None
                parts[-1] += exponent
            else:
                power = exponent
        elif word.startswith("^") and len(word) > 1:
            if not parts:
                return None
            parts[-1] += "**" + word[1:]
        elif word in ("/", "per", "*"):
            if not parts or pending:
                return None
            pending = "*" if word == "*" else "/"
        elif word == "micro":
            micro = "micro"
        elif re.fullmatch(r"[^\W\d]+", word):
            if word in ("degree", "degrees") and index + 1 < len(words) and words[index + 1].casefold() in ("c", "f", "celsius", "fahrenheit", "centigrade"):
                continue
            previous = words[index - 1] if index else ""
            if previous in ("degree", "degrees") and word.casefold() in ("c", "f", "celsius", "fahrenheit", "centigrade"):
                word = "degC" if word.casefold()[0] == "c" else "degF"
            name = micro + {"fluid": "fluid_ounce", "kmh": "km/h", "kmph": "km/h", "kph": "km/h", "hrs": "hour", "mins": "minute", "secs": "second", "yrs": "year", "tons": "ton", "tonnes": "tonne"}.get(word, word)
            if parts and not pending:
                pending = "*"
            parts.append((pending if parts else "") + name + power)
            power = pending = micro = ""
        else:
            return None
    return "".join(parts) if parts and not (power or pending or micro) else None


def _factor(source: Any, target: Any) -> Fraction | None:
    if source == target:
        return Fraction(1)
    try:
        units = registry()
        with localcontext(_CONTEXT):
            one, other = (units.Quantity(Decimal(1), unit).to_base_units() for unit in (source, target))
            if one.units != other.units or any("degree_" in str(unit) for unit in (source, target)):
                return None
            factor = Decimal(one.magnitude) / Decimal(other.magnitude)
            return Fraction(factor).limit_denominator(10**15) if factor >= 1 else 1 / Fraction(1 / factor).limit_denominator(10**15)
    except Exception:
        return None
