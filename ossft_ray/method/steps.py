r"""The arithmetic steps of a solution: its explicit equations between numbers, and whether they are true.

| text                                      | read as              | verdict                                           |
|-------------------------------------------|----------------------|---------------------------------------------------|
| `48 clips / 2 = 24 clips`                 | 48/2 = 24            | true: units are left out                          |
| `$15 + $4.8 = $9.50`                      | 15 + 4.8 = 9.50      | false                                             |
| `10 / 3 = 3.33`, `7 / 2 = 3`              | rounded, or cut off  | true: as written                                  |
| `20% of 50 = 10`                          | 0.2 * 50 = 10        | true                                              |
| `\frac{12}{60} \times 50 = 10`            | (12)/(60) * 50 = 10  | true: LaTeX                                       |
| `3 + 4 = 7 * 2 = 14`                      | two steps            | true: each side begins with the value before it   |
| `72 hours = 3 days`, `x + 3 = 8`          |                      | not read: no computation with numbers alone       |
| `2 hours + 30 minutes = 150 minutes`      |                      | not read: it may convert between units            |

What cannot be read is not a fault. The time is linear in the length of any text.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

_LONGEST_SIDE = 48  # tokens; only those next to the equals sign are read
_MAX_DIGITS, _MAX_EXPONENT, _MAX_DEPTH = 24, 24, 12
_MAX_UNIT_WORDS = 5  # after a number

_OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_NUMBER = r"(?:\d+(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(rf"(?<![\d.]){_NUMBER}|(?<!\d)\.\d+")  # in any text, without its sign
_NOTE = re.compile(r"<<([^<>\n]*)>>")
_REPLACEMENTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        # Runs come first, because the other patterns may take time quadratic in a run's length.
        (r"[^\S\n]+", " "),
        (r" ?\n[ \n]*", "\n"),
        (r"[*_]{4,}", " "),
        (r"\\[,!]|\{,\}", ""),  # in 10\,000 and 10{,}000
        (r"\\(?:times|cdot|ast)(?![A-Za-z])|[×·⋅∗]", " * "),
        (r"\\div(?![A-Za-z])|÷", " / "),
        (r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[;: ]", " "),
        (r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\{([^{}]*)\}", r"^(\1)"),
        (r"(?<![\d.)])(\d+)\s*\(\((\d+)\)/\((\d+)\)\)", r"\1 \2/\3"),  # a mixed number
        (r"[−]", "-"),
        (r"\\([$%])", r"\1"),
        (r"\\[()\[\]]|\$\$|&|[*_](?=[*_]*(?:[$\s]|\Z))(?<=[\w.)%*_][*_])", " "),  # math delimiters, closing emphasis
        (r"(?:(?<=\s)|\A)\*\*(?=[\w$(])", " "),  # opening emphasis
        (r"\n\s*(?==(?!=))", " "),  # an equation that continues on the next line
        (r"(?:\A|(?<=\n))[ \t]*(?:[-*•+]|\d{1,2}[.)])[ \t]+", ""),  # a list item's mark
        (r"\(\s*[A-Za-z][A-Za-z' ,]*\)", " "),  # a remark
        (r"\s[-–—]+\s+(?=[A-Za-z])", " ; "),  # a dash between words
        (r"[–—]", "-"),
        (r"(?<=[\d)])\s*[xX]\s*(?=[\d$(.])", " * "),
        (r"(?<=[A-Za-z%])\s+[xX]\s+(?=[\d$(])", " * "),
        (rf"\b(?:add|adding)\s+(\$?{_NUMBER})\s+(?:to|and)\s+(?=[\d$])", r"\1 + "),
        (rf"\b(?:multiply|multiplying)\s+(\$?{_NUMBER})\s+(?:by|and)\s+(?=[\d$])", r"\1 * "),
        (rf"\b(?:divide|dividing)\s+(\$?{_NUMBER})\s+by\s+(?=[\d$])", r"\1 / "),
        (rf"\b(?:subtract|subtracting)\s+(\$?{_NUMBER})\s+from\s+(\$?(?:{_NUMBER}))", r"\2 - \1"),
        (
            r"(?<=[\d%)])\s*,?\s+(?:which\s+|that\s+)?(?:is|equals|gives|makes|to get)\s+"
            r"(?=[\d$])(?![\d.,]+(?: [a-z]+)? (?:more|less|fewer|times|of)\b)",
            " = ",
        ),
        (r"\b(?:multiplied by|times)\s+(?=[\d$(])", "* "),
        (r"\bdivided by\s+(?=[\d$(])", "/ "),
        (r"\bplus\s+(?=[\d$(])", "+ "),
        (r"\bminus\s+(?=[\d$(])", "- "),
        (r"(?<=[%\d])\s+of\s+(?:the\s+)?(?=[\d$(])", " * "),
        (r"([/*])\s+(\d+/\d+)(?![\d.])", r"\1 (\2)"),  # 50 / 1/2
        (r"\*\*", "^"),
        (r"²", "^2"),
        (r"³", "^3"),
    )
)
_ANNOUNCED = re.compile(
    rf"(?:\b(?:the|final|correct) answer is:?|####)[\s*$]*({_NUMBER})"
    r"(?![\d/]|\s*(?:[-+*/^=]|percent of|more|less|times))",
    re.IGNORECASE,
)
_TIME_OR_MEASURE = re.compile(
    r"week|month|day|year|hour|minute|second|decade|century|dozen|foot|feet|inch|pound|ounce|mile|cent|penn|quarter|dime"
    r"|nickel|gallon|pint|quart|cup|o'clock|[ap]\.?m\b|daily|weekly|monthly|square|angle",
    re.IGNORECASE,
)
_SMALL = (*range(6), 10, 100, 1000, "0.1", "0.25", "0.5", "0.75", "1.5")  # numbers that need no source
_MEASURES = (7, 12, 16, 24, 30, 31, 52, 60, 180, 360, 365, 2000, 3600, 5280)
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_PARTS = "sixth seventh eighth ninth"
_NUMBER_WORDS: dict[str, int] = {
    **{word: number for number, word in enumerate([*ONES, *TEENS], start=1) if number > 5},
    **{word: number for number, word in enumerate(_PARTS.split(), start=6)},
    **dict(zip(TENS, range(20, 100, 10), strict=True)),
    "dozen": 12,
}
_ARTICLE = re.compile(r"(?<=\s)a +[A-Za-z]")
_STEP = re.compile(r"\b(?:step|part|case)\s+\d+|^#+[ \t]*\d+[.:]", re.IGNORECASE | re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TOKEN = re.compile(
    rf"(?P<opaque>\\[A-Za-z]+|[{{}}]|_(?:\{{[^{{}}]*\}}|\w)|\d+\.(?=\\)|\d+:\d+|(?!{_NUMBER}(?!\d|,\d))\d+(?:,\d+)+|0\d+(?!\.))"
    rf"|(?P<number>{_NUMBER})|(?P<equals>==?(?![=>])|≈)|(?P<operator>[-+*/^()])|(?P<percent>%)"
    r"|(?P<currency>[$€£¥₹])|(?P<word>[A-Za-z]+(?:['’-][A-Za-z]+)*)|(?P<space>[ \t]+)|(?P<stop>.)",
    re.DOTALL,
)
# After a number these words end its unit, because what follows changes the value or belongs to the sentence.
_NOT_UNITS = """
    of and or is are was were as than times half twice double triple more less fewer plus minus over by if so then that
    which where because since but hundred thousand million billion dozen dozens percent squared cubed equals
"""
_SCALES = "times of than dozen dozens hundred thousand million billion squared cubed"  # directly after a number
# Directly before an expression these words change its value: half of 40 + 8.
_CHANGES_VALUE = """
    half twice double triple third thirds quarter quarters fifth sixth eighth tenth average mean median root product
    difference ratio remainder percent percentage mod less than by dozen
"""
_CONVERTIBLE: dict[str, int] = {
    unit: group
    for group, units in enumerate(
        (
            "second sec minute min hour hr day week month year decade century",
            "dollar cent penny pennie quarter dime nickel",
            "foot feet ft inch inche in yard mile meter metre m km kilometer kilometre cm centimeter mm millimeter",
            "gram g kg kilogram pound lb ounce oz ton mg",
            "liter litre l ml milliliter millilitre gallon quart pint cup tablespoon teaspoon",
            "piece pack dozen pair box case",
        )
    )
    for unit in units.split()
}


@dataclass(frozen=True)
class Equation:
    """An equation between two sides that could be read, at least one of which computes something."""

    text: str
    is_true: bool


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True)
class _Side:
    """One side of an equation: its value with percents as hundredths and as bare numbers, and how it is written."""

    values: tuple[Fraction, Fraction]
    first: Fraction  # its first number
    computes: bool
    divides: bool
    decimals: int  # the most of any of its numbers
    units: frozenset[str]
    text: str
    num_tokens: int


@dataclass(frozen=True)
class _Pair:
    """The two sides of an equals sign; None for one that cannot be read. `before`: the numbers since the last pair."""

    left: _Side | None
    right: _Side | None
    before: list[Fraction]


class _UnreadableError(Exception):
    """A side is not an expression of numbers."""


def equations(text: str) -> Iterator[Equation]:
    """The equations of `text` that compute something, in order; those in `<<...>>` notes come last.

    >>> [equation.is_true for equation in equations("She sold 48/2 = 24 clips, so 48 + 24 = 73 in all.")]
    [True, False]
    """
    for pair in _pairs(text):
        left, right = pair.left, pair.right
        if left is None or right is None or not (left.computes or right.computes):
            continue
        if (is_true := _compare(left, right)) is not None:
            yield Equation(f"{left.text} = {right.text}", is_true)


def false_equation(text: str) -> str | None:
    """The first equation of `text` that is false, or None."""
    return next((equation.text for equation in equations(text) if not equation.is_true), None)


def is_derived(text: str, answer: str, question: str = "", guide: str = "") -> bool:
    """Whether the answer follows from something in `text`.

    It does if an equation of known numbers gives it: numbers from the question or the text before, or small or common
    ones. A number that the guide computes is known only once the text computes it. A text without equations needs the
    numbers from which the guide computes the answer, or any two other numbers if the guide does not compute it. An
    answer that is not one number always counts as derived.

    >>> is_derived("12 + 4 = 16", "16", "3 cats, 2 birds")
    False
    >>> is_derived("3 * 4 = 12 and 12 + 4 = 16", "16", "3 cats, 2 birds")
    True
    """
    value = number_value(answer)
    if value is None:
        return True
    of_guide = _results(guide)
    known = _known_numbers(question, of_guide) if question else None
    has_equations = False
    for pair in _pairs(text):
        sides = [side for side in (pair.left, pair.right) if side is not None]
        has_equations |= any(side is pair.right or side.computes for side in sides)
        values = {abs(each) for side in sides for each in side.values}
        if known is not None:
            known |= set(pair.before) - of_guide
            if not _operands(pair) <= known:
                continue  # some of its numbers have no source but perhaps the guide
            known |= _with_shares(values.union(*(numbers(side.text) for side in sides)))
        if any(_rounds_to(each, value) for each in values) and any(_states(side, pair, value) for side in sides):
            return True
    if has_equations:
        return False
    others = set(numbers(_STEP.sub(" ", _plain(_NOTE.sub(" ", text))))) - {value}
    for pair in _pairs(guide):
        if pair.left is not None and pair.right is not None and value in pair.right.values:
            return set(numbers(pair.left.text)) <= others
    return len(others) >= 2


def _states(side: _Side, pair: _Pair, value: Fraction) -> bool:
    """Whether a side states the value as a result: it computes, or stands right of the equals sign."""
    is_result = side is pair.right or side.computes
    return is_result and any(_rounds_to(abs(each), value) for each in side.values)


def _with_shares(values: set[Fraction]) -> set[Fraction]:
    """Numbers, and their values as percents: for 20, also 0.2, 0.8, 1.2, 80 and 120."""
    shares = {share / 100 for share in values if share <= 100}
    wholes = {100 - share for share in values} | {100 + share for share in values}
    return values | shares | {1 - share for share in shares} | {1 + share for share in shares} | wholes


def _operands(pair: _Pair) -> set[Fraction]:
    """The numbers from which a pair of sides computes its value."""
    sides = (pair.left, pair.right)
    return {number for side in sides if side is not None and side.computes for number in numbers(side.text)}


def _known_numbers(question: str, of_guide: set[Fraction]) -> set[Fraction]:
    """The numbers of a question, in figures and words and as percents, and small, round and common ones.

    Common numbers that are the guide's results are left out.
    """
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", question.casefold())}
    stated = {*numbers(question), *(Fraction(number) for word, number in _NUMBER_WORDS.items() if word in words)}
    measures = set(map(Fraction, _MEASURES)) if _TIME_OR_MEASURE.search(question) else set()
    return _with_shares(stated) | set(map(Fraction, _SMALL)) | (measures - of_guide)


def _results(guide: str) -> set[Fraction]:
    """The numbers that a solution computes before it uses them."""
    used: set[Fraction] = set()
    computed: set[Fraction] = set()
    for pair in _pairs(guide):
        used |= _operands(pair) - computed
        if pair.right is not None and not pair.right.computes:
            computed |= set(pair.right.values) - used
    return computed


def _rounds_to(result: Fraction, value: Fraction) -> bool:
    if value in (result, 100 * result):
        return True
    return value.denominator == 1 and result.denominator != 1 and abs(result - value) < 1


def announces_another(text: str, answer: str) -> bool:
    """Whether `text` announces a number other than the answer as its answer: two answers are at most half right.

    >>> announces_another("#### 24\\nThe final answer is 72.", "72")
    True
    """
    value = number_value(answer)
    announced = {Fraction(found[1].replace(",", "")) for found in _ANNOUNCED.finditer(_plain(text))}
    return value is not None and any(not _rounds_to(value, other) for other in announced - {value})


def number_value(text: str) -> Fraction | None:
    """The value of a text that holds one number, perhaps with a sign, a unit or a currency, and no operation; or None.

    The sign does not count.

    >>> number_value("$1,200.50"), number_value("3/4")
    (Fraction(2401, 2), None)
    """
    found = NUMBER.findall(text)
    if len(found) != 1 or len(found[0]) > _MAX_DIGITS or re.search(r"[\\^_{}=+*/<>()\[\]]|[A-Za-z]\d", text):
        return None
    return Fraction(found[0].replace(",", ""))


def numbers(text: str) -> list[Fraction]:
    """The numbers of `text` in order, without their signs."""
    return [Fraction(found.replace(",", "")) for found in NUMBER.findall(text) if len(found) <= _MAX_DIGITS]


def _plain(text: str) -> str:
    """`text` in one notation: LaTeX, emphasis, list marks and words for operations replaced."""
    for _ in range(3):  # fractions in fractions
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    for pattern, new in _REPLACEMENTS:
        text = pattern.sub(new, text)
    return text


def _tokens(text: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "word" and _is_variable(match[0], text, match.start()):
            kind = "opaque"
        if kind != "space":
            tokens.append(_Token(kind, match[0]))
    return tokens


def _is_variable(word: str, text: str, start: int) -> bool:
    """Whether a word is a variable, not a unit: one letter, or letters directly after a number, as in 2ab."""
    if len(word) == 1:
        return not _ARTICLE.match(text, start)  # $5 a day
    is_attached = start > 0 and (text[start - 1].isdigit() or text[start - 1] == ")")
    return is_attached and word.casefold().removesuffix("s") not in _CONVERTIBLE


def _pairs(text: str) -> Iterator[_Pair]:
    """The two sides of each equals sign of a text."""
    for part in (_NOTE.sub(" ", text), *(note[1] for note in _NOTE.finditer(text))):
        clause: list[_Token] = []
        prose: list[Fraction] = []  # the numbers outside of equations since the last one
        for token in [*_tokens(_plain(part)), _Token("stop", "")]:
            if token.kind != "stop":
                clause.append(token)
                continue
            words_start = 0
            signs = [place for place, each in enumerate(clause) if each.kind == "equals"]
            for before, sign, after in zip([-1, *signs], signs, [*signs[1:], len(clause)], strict=False):
                left, right = _read_end(clause[before + 1 : sign]), _read_beginning(clause[sign + 1 : after])
                words_end = sign - (left.num_tokens if left is not None else 0)
                yield _Pair(left, right, [*prose, *_values(clause[words_start:words_end])])
                prose, words_start = [], sign + 1 + (right.num_tokens if right is not None else 0)
            prose += _values(clause[words_start:])
            clause = []


def _values(tokens: list[_Token]) -> list[Fraction]:
    return [
        Fraction(token.text.replace(",", ""))
        for token in tokens
        if token.kind == "number" and len(token.text) <= _MAX_DIGITS
    ]


def _read_end(tokens: list[_Token]) -> _Side | None:
    """The longest expression at the end of what stands left of an equals sign."""
    tokens = tokens[-_LONGEST_SIDE:]
    for start in range(len(tokens)):
        if not _may_start(tokens, start):
            continue
        try:
            reader = _Reader(tokens[start:])
            side = reader.side()
        except _UnreadableError:
            continue
        if reader.place < len(reader.tokens):
            continue
        before = {token.text.casefold() for token in tokens[max(0, start - 3) : start]}
        is_label = not side.computes and (side.units or start)  # "Day 1 = ..."
        return None if before.intersection(_CHANGES_VALUE.split()) or is_label else side
    return None


def _read_beginning(tokens: list[_Token]) -> _Side | None:
    """The longest expression at the beginning of what stands right of an equals sign."""
    reader = _Reader(tokens[:_LONGEST_SIDE])
    try:
        side = reader.side()
    except _UnreadableError:
        return None
    rest, last = reader.peek(), reader.tokens[reader.place - 1]
    is_scaled = rest is not None and last.kind == "number" and rest.text in _SCALES.split()  # 3 million
    is_next_number = rest is not None and rest.kind == "number" and last.kind == "word"  # 8 cakes with 3 ...
    if is_scaled or (rest is not None and rest.kind not in ("word", "currency") and not is_next_number):
        return None
    return side


def _may_start(tokens: list[_Token], place: int) -> bool:
    """Whether an expression may begin at `place`: not in the middle of another one."""
    token = tokens[place]
    if place and tokens[place - 1].kind != "word":
        return False
    return token.kind in ("number", "currency") or token.text == "(" or (token.text == "-" and place == 0)


class _Reader:
    """Reads an expression from tokens by recursive descent, and evaluates it exactly."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0
        self.numbers: list[str] = []
        self.units: set[str] = set()
        self.num_operators, self.divides = 0, False

    def side(self) -> _Side:
        values = self.sum()
        return _Side(
            values,
            Fraction(self.numbers[0]),
            self.num_operators > 0,
            self.divides,
            max(len(number.partition(".")[2]) for number in self.numbers),
            frozenset(self.units),
            " ".join(token.text for token in self.tokens[: self.place]),
            self.place,
        )

    def peek(self, ahead: int = 0) -> _Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def accept(self, *texts: str) -> str | None:
        token = self.peek()
        if token is not None and token.text in texts:
            self.place += 1
            return token.text
        return None

    def sum(self) -> tuple[Fraction, Fraction]:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _UnreadableError
        total = self.product()
        while sign := self.accept("+", "-"):
            self.num_operators += 1
            term = self.product()
            total = _each(total, term, _OPERATIONS[sign])
        self.depth -= 1
        return total

    def product(self) -> tuple[Fraction, Fraction]:
        total = self.power()
        while True:
            token = self.peek()
            before = self.tokens[self.place - 1]
            if token is not None and token.text == "(" and (before.kind == "number" or before.text == ")"):  # 2(3 + 4)
                sign: str | None = "*"
            else:
                sign = self.accept("*", "/")
            if sign is None:
                return total
            self.num_operators += 1
            self.divides |= sign == "/"
            factor = self.power()
            if sign == "/" and 0 in factor:
                raise _UnreadableError
            total = _each(total, factor, _OPERATIONS[sign])

    def power(self) -> tuple[Fraction, Fraction]:
        if self.accept("-"):
            base = self.power()
            return (-base[0], -base[1])
        base = self.atom()
        if not self.accept("^"):
            return base
        self.num_operators += 1
        exponent = self.atom()[0]
        if exponent.denominator != 1 or abs(exponent) > _MAX_EXPONENT or 0 in base:
            raise _UnreadableError
        return (base[0] ** int(exponent), base[1] ** int(exponent))

    def atom(self) -> tuple[Fraction, Fraction]:
        while (token := self.peek()) is not None and token.kind == "currency":
            self.units.add("dollar")
            self.place += 1
        if self.accept("-"):  # $-5
            value = self.atom()
            return (-value[0], -value[1])
        if self.accept("("):
            value = self.sum()
            if not self.accept(")"):
                raise _UnreadableError
            return self.with_unit(value)
        if token is None or token.kind != "number" or len(token.text) > _MAX_DIGITS:
            raise _UnreadableError
        self.place += 1
        number = token.text.replace(",", "")
        self.numbers.append(number)
        after = [self.peek(ahead) for ahead in range(3)]
        whole = Fraction(number)
        if [each and each.kind for each in after] == ["number", "operator", "number"] and after[1].text == "/":  # type: ignore[union-attr]
            top, bottom = (after[place].text for place in (0, 2))  # type: ignore[union-attr]
            if not (top + bottom + number).isdigit() or int(top) >= int(bottom):
                raise _UnreadableError
            self.place += 3  # a mixed number: 1 1/2
            self.divides = True
            whole += Fraction(int(top), int(bottom))
        return self.with_unit((whole, whole))

    def with_unit(self, value: tuple[Fraction, Fraction]) -> tuple[Fraction, Fraction]:
        """Apply a percent sign to the value, and read the words of its unit."""
        token = self.peek()
        if token is not None and token.kind == "percent":
            self.place += 1
            value = (value[0] / 100, value[1])
        num_words = 0
        while num_words < _MAX_UNIT_WORDS and (token := self.peek()) is not None:
            following = self.peek(1)
            is_per = token.text == "/" and following is not None and following.kind == "word"
            word = following if is_per else token
            if word is None or word.kind not in ("word", "currency") or word.text.casefold() in _NOT_UNITS.split():
                break
            if word.kind == "currency" and not is_per and not self._is_closing(1):
                break
            self.units.add("dollar" if word.kind == "currency" else word.text.casefold())
            self.place += 2 if is_per else 1
            num_words += 1
            if (power := self.peek()) is not None and power.text == "^":  # square metres
                self.place += 2
        return value

    def _is_closing(self, ahead: int) -> bool:
        """Whether a dollar sign ends a formula rather than beginning an amount."""
        token = self.peek(ahead)
        return token is None or token.kind != "number"


def _each(
    left: tuple[Fraction, Fraction], right: tuple[Fraction, Fraction], combine: Callable[[Fraction, Fraction], Fraction]
) -> tuple[Fraction, Fraction]:
    return (_bounded(combine(left[0], right[0])), _bounded(combine(left[1], right[1])))


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 2000:
        raise _UnreadableError
    return value


def _compare(left: _Side, right: _Side) -> bool | None:
    """Whether two sides are equal to the precision written; None if they may differ by a conversion of units."""
    if any(_agree(a, b, left, right) for a in set(left.values) for b in set(right.values)):
        return True
    if right.computes and any(abs(right.first - a) <= abs(a) / 1000 for a in left.values):
        return True  # 3 + 4 = 7 * 2 = 14
    groups: dict[int, set[str]] = {}
    for unit in left.units | right.units:
        name = unit if unit in _CONVERTIBLE else unit.removesuffix("s")
        if name in _CONVERTIBLE:
            groups.setdefault(_CONVERTIBLE[name], set()).add(name)
    return None if any(len(names) > 1 for names in groups.values()) else False


def _agree(a: Fraction, b: Fraction, left: _Side, right: _Side) -> bool:
    if a == b:
        return True
    difference, decimals = abs(a - b), max(left.decimals, right.decimals)
    if decimals >= 2 and difference <= abs(a) / 1000:
        return True  # 33.33 * 3 = 100
    for computed, stated in ((left, right), (right, left)):
        if not stated.computes and (stated.decimals or computed.divides):
            # Rounded to the decimals that are written, or cut off there; a quotient also to the next whole number.
            unit, is_cut = Fraction(1, 10**stated.decimals), abs(stated.values[0]) < abs(computed.values[0])
            if difference < unit and difference <= abs(a) / 4:
                return is_cut or 2 * difference <= unit or not stated.decimals
    return False
