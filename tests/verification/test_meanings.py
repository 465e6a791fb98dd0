r"""Equal meanings are accepted and different ones refused: pairs generated from small grammars, 22,400 in all.

Each grammar writes meanings (an amount with a unit, a time of day, an order of letters, ...) in many ways. Whether two
texts agree follows from how they were made, by arithmetic that shares nothing with the verifier. Half of the pairs have
equal meanings. The seeds are fixed, so every run grades the same pairs.
"""

import random
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

from ossft_ray.verification.kinds import choice, math, number, text

pytestmark = pytest.mark.thorough

Pair = tuple[str, str, bool]  # a gold answer, a response, and whether they mean the same

NUMBERS = [str(n) for n in (3, 4, 5, 6, 7, 8, 9, 12, 15, 20, 24, 36, 45, 60, 72, 90, 120, 250, 1800, 9500, 12000)]
LENGTHS = {
    "mm": ("millimeters", Fraction(1, 1000)),
    "cm": ("centimeters", Fraction(1, 100)),
    "m": ("meters", Fraction(1)),
}
LENGTHS |= {
    "km": ("kilometers", Fraction(1000)),
    "ft": ("feet", Fraction(3048, 10000)),
    "in": ("inches", Fraction(254, 10000)),
}
MASSES = {"mg": ("milligrams", Fraction(1, 1000)), "g": ("grams", Fraction(1)), "kg": ("kilograms", Fraction(1000))}
TIMES = {"s": ("seconds", Fraction(1)), "min": ("minutes", Fraction(60)), "h": ("hours", Fraction(3600))}
VOLUMES = {"mL": ("milliliters", Fraction(1, 1000)), "L": ("liters", Fraction(1))}
POWERS = {"W": ("watts", Fraction(1)), "kW": ("kilowatts", Fraction(1000)), "MW": ("megawatts", Fraction(10**6))}
DIMENSIONS = [LENGTHS, MASSES, TIMES, VOLUMES, POWERS]


def boxed(answer: str) -> str:
    return rf"So it is $\boxed{{{answer}}}$."


def decimal(value: Fraction) -> str | None:
    """A number as a decimal, if it is short."""
    for digits in range(7):
        if (value * 10**digits).denominator == 1:
            return f"{float(value):.{digits}f}" if digits else str(int(value))
    return None


def quantities(rng: random.Random) -> Iterator[Pair]:
    """Amounts with units, in symbols and in words, converted or not."""

    def write(amount: str, dimension: dict[str, tuple[str, Fraction]], unit: str) -> str:
        name = dimension[unit][0]
        forms = [
            rf"{amount}\text{{ {unit}}}",
            rf"{amount} \mathrm{{~{unit}}}",
            rf"{amount}\,\mathrm{{{unit}}}",
            f"{amount} {name}",
        ]
        return rng.choice([*forms, rf"{amount}\text{{ {name}}}", rf"x = {amount}\text{{ {unit}}}"])

    while True:
        dimension, amount = rng.choice(DIMENSIONS), rng.choice(NUMBERS[:14])
        unit, other = rng.choice(list(dimension)), rng.choice(list(dimension))
        value = Fraction(amount) * dimension[unit][1]
        if rng.random() < 0.5:
            converted = decimal(value / dimension[other][1])
            if converted is not None:
                yield write(amount, dimension, unit), boxed(write(converted, dimension, other)), True
        else:
            others = rng.choice(DIMENSIONS)
            other, second = rng.choice(list(others)), rng.choice([amount, rng.choice(NUMBERS[:14])])
            if others is not dimension or Fraction(second) * others[other][1] != value:
                yield write(amount, dimension, unit), boxed(write(second, others, other)), False


HARMLESS = [
    "{n}",
    "exactly {n}",
    "about {n}",
    "{n} apples",
    "{n} in total",
    "a total of {n}",
    "{n} units",
    "{n} (a whole number)",
]
HARMLESS += [
    "{n}, since {m} is too many",
    "{n}, not {m}",
    "{n} because it is",
    "equal to {n}",
    "${n}$",
    "**{n}**",
    r"\({n}\)",
]
CHANGING = [
    "less than {n}",
    "more than {n}",
    "at least {n}",
    "at most {n}",
    "not {n}",
    "negative {n}",
    "minus {n}",
    "twice {n}",
]
CHANGING += [
    "half of {n}",
    "{n} and {m}",
    "{n} or {m}",
    "{n}, {m}",
    "{n} to {m}",
    "between {n} and {m}",
    "{n} million",
    "{n} squared",
]
CHANGING += [
    "{n} dozen",
    "{n} pairs",
    "{n} plus {m}",
    "{n} times {m}",
    "{n} times x",
    "{n} over {m}",
    "{n} factorial",
    "{n}!",
    "{n}x",
]
CHANGING += [
    "{n} more than x",
    "one of {n} numbers",
    "the square root of {n}",
    "log {n}",
    "{n} apples and {m} pears",
    "under {n}",
]
CHANGING += [
    "{n} divided by {m}",
    "{n} minus {m}",
    "{n} percent of x",
    "{n}:{m}",
    "{n}–{m}",
    "{n} ± {m}",
    "{n} hundred",
    "-{n}",
    "{n}^2",
]


def sentences(rng: random.Random) -> Iterator[Pair]:
    """Numbers within a sentence, or in a box with words around them."""
    while True:
        n, m = rng.sample(NUMBERS, 2)
        is_same = rng.random() < 0.5
        stated = rng.choice(HARMLESS if is_same else CHANGING).format(n=n, m=m)
        in_box = not any(mark in stated for mark in ("$", "*", r"\(", "because", "since", "not {m}", ", not"))
        yield n, boxed(stated) if in_box and rng.random() < 0.5 else f"The answer is {stated}.", is_same


SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "hundred": 100}


def scales(rng: random.Random) -> Iterator[Pair]:
    """Large numbers in words and in digits, as money or not."""

    def write(value: int) -> str:
        ways = [str(value), f"{value:,}", f"{value:,}".replace(",", "{,}"), f"{value:,}".replace(",", r"\,")]
        for name, scale in SCALES.items():
            amount = decimal(Fraction(value, scale))
            if amount is not None and len(amount) < 6:
                ways += [f"{amount} {name}", rf"{amount}\text{{ {name}}}"]
        way = rng.choice(ways)
        return rng.choice([way, way, rf"\${way}", f"{way} dollars"])

    while True:
        value = rng.choice([12, 15, 18, 24, 36, 50, 75]) * 10 ** rng.randrange(1, 9)
        is_same = rng.random() < 0.5
        other = (
            value if is_same else value * rng.choice([10, 100, 1000, 12]) if rng.random() < 0.5 else value + value // 12
        )
        yield write(value), boxed(write(other)), is_same


OPPOSITES = [
    ("profit", "loss"),
    ("north", "south"),
    ("to the left", "to the right"),
    ("wins", "losses"),
    ("boys", "girls"),
]
OPPOSITES += [
    ("even", "odd"),
    ("AD", "BC"),
    ("up", "down"),
    ("apples", "oranges"),
    ("men", "women"),
    ("increase", "decrease"),
]
OPPOSITES += [
    ("hours late", "hours early"),
    ("dollars", "euros"),
    ("dollars", "cents"),
    ("red balls", "blue balls"),
    ("weeks", "days"),
]


def leftovers(rng: random.Random) -> Iterator[Pair]:
    """The same number with the same or with opposite words after it."""
    while True:
        amount, words = rng.choice(NUMBERS) + rng.choice(["", "", r"\%"]), rng.choice(OPPOSITES)
        first = rng.choice(words)
        is_same = rng.random() < 0.5
        second = first if is_same else words[1 - words.index(first)]
        if r"\%" in amount and second in ("dollars", "euros", "cents", "weeks", "days"):
            continue
        gold, answer = (rng.choice([rf"{amount}\text{{ {word}}}", f"{amount} {word}"]) for word in (first, second))
        yield gold, boxed(answer), is_same


def times_of_day(rng: random.Random) -> Iterator[Pair]:
    def write(minutes: int) -> str:
        hour, minute = divmod(minutes, 60)
        short, half = f"{hour % 12 or 12}:{minute:02}", "ap"[hour >= 12]
        ways = [
            f"{short} {half.upper()}M",
            rf"{short}\text{{ {half}.m.}}",
            f"{short} {half}m",
            rf"{short} \text{{ {half.upper()}.M.}}",
        ]
        return rng.choice(ways)

    while True:
        minutes = rng.randrange(24 * 60)
        is_same = rng.random() < 0.5
        other = minutes if is_same else (minutes + rng.choice([720, 720, 1, 60, 600])) % 1440
        yield write(minutes), boxed(write(other)), is_same


def letters(rng: random.Random) -> Iterator[Pair]:
    """Ordered letters that are not products: sequences, Roman numerals, words."""
    alphabets = ["HT", "WL", "ACGT", "ABCD", "IVXLC", "aeiou", "aent", "PQRS"]
    while True:
        order = [
            rng.choice(rng.choice([alphabets[0], alphabet]))
            for alphabet in [rng.choice(alphabets)] * rng.randrange(3, 7)
        ]
        other = order if rng.random() < 0.5 else rng.sample(order, len(order))
        one, two = "".join(order), "".join(other)
        if one.isupper() or (one.islower() and set(one) & set("aeiou")):
            yield one, boxed(rng.choice([two, rf"\text{{{two}}}", rf"\mathrm{{{two}}}"])), one == two


def ratios(rng: random.Random) -> Iterator[Pair]:
    while True:
        parts = rng.sample(range(2, 12), 3)
        factor = rng.choice([1, 1, 2, 3, 5])
        others = [part * factor for part in parts]
        is_same = rng.random() < 0.5
        if not is_same:
            rng.shuffle(others)
        same = [Fraction(part, parts[0]) for part in parts] == [Fraction(part, others[0]) for part in others]
        mark = rng.choice([":", " : ", ": "])
        yield ":".join(map(str, parts)), boxed(mark.join(map(str, others))), same


FULL_WIDTH = str.maketrans("0123456789.-,", "０１２３４５６７８９．－，")


def spellings(rng: random.Random) -> Iterator[Pair]:
    """One number in many characters, fonts and currencies."""
    wraps: list[Callable[[str], str]] = [
        *(
            lambda n, form=form: form.replace("#", n)
            for form in ("**#**", r"\mathbf{#}", r"\textbf{#}", r"\text{#}", "{#}", "(#)")
        ),
        *(
            lambda n, form=form: form.replace("#", n)
            for form in (r"\[ # \]", r"\( # \)", "$#$", "#.", "#,", "#;", r"#\\", "#。")
        ),
        *(
            lambda n, form=form: form.replace("#", n)
            for form in (r"\color{red}{#}", r"\textcolor{red}{#}", r"\underline{#}", r"{\bf #}")
        ),
        *(
            lambda n, form=form: form.replace("#", n)
            for form in (r"\approx #", "≈ #", "x = #", r"x \approx #", "\u200b#", "#\u200e", "`#`")
        ),
        *(
            lambda n, form=form: form.replace("#", n)
            for form in (r"\$#", "$#", "€#", "£#", "#元", "# dollars", "#个", "Rs. #", r"\text{\$}#")
        ),
        *(
            lambda n, form=form: form.replace("#", n)
            for form in (r"\ #\ ", r"#\quad", r"\displaystyle #", r"\large #", "#°", r"#^\circ")
        ),
        lambda n: n.translate(FULL_WIDTH),
        lambda n: f"{int(n):,}" if n.isdigit() else n,
        lambda n: f"{int(n):,}".replace(",", "\u202f") if n.isdigit() else n,
        lambda n: n + ".00" if n.isdigit() else n,
    ]
    while True:
        amount = rng.choice([*NUMBERS, "2.5", "0.75", "-3", "-12"])
        is_same = rng.random() < 0.5
        stated = amount if is_same else rng.choice([other for other in NUMBERS if other != amount])
        answer = rng.choice(wraps)(stated.replace("-", rng.choice("-−–")))
        yield amount, boxed(answer), is_same


def symbols(rng: random.Random) -> Iterator[Pair]:
    """Roots, fractions, powers and letters in Unicode and in LaTeX."""
    pairs = [(rf"\sqrt{{{n}}}", f"√{n}") for n in (2, 3, 5, 7)] + [(rf"3\sqrt{{{n}}}", f"3√{n}") for n in (2, 3, 5)]
    pairs += [
        (rf"\frac{{{a}}}{{{b}}}", c)
        for (a, b), c in {(1, 2): "½", (1, 4): "¼", (3, 4): "¾", (1, 3): "⅓", (2, 3): "⅔"}.items()
    ]
    pairs += [
        ("x^2", "x²"),
        ("x^3", "x³"),
        ("x^{10}", "x¹⁰"),
        (r"\pi", "π"),
        (r"2\pi", "2π"),
        (r"\alpha", "α"),
        (r"\beta", "β"),
    ]
    pairs += [
        (r"\infty", "∞"),
        (r"-\infty", "−∞"),
        (r"x \le 4", "x ≤ 4"),
        (r"x \ge 4", "x≥4"),
        ("x_1", "x₁"),
        ("x_2", "x₂"),
    ]
    pairs += [
        (r"(1, 2)", "（1，2）"),
        (r"(2, 1)", "（2，1）"),
        (r"x \in [0, 4]", "x ∈ [0, 4]"),
        ("2.5", "2½"),
        ("1.75", "1¾"),
    ]
    while True:
        (latex, _), (other, unicode) = rng.choice(pairs), rng.choice(pairs)
        if rng.random() < 0.5:
            latex = other
        yield latex, boxed(rng.choice([unicode, f"${unicode}$", unicode + "。", f"**{unicode}**"])), latex == other


def readers(rng: random.Random) -> Iterator[Pair]:
    """Whole solutions as gold answers, and the layouts of responses."""
    golds = [
        "{n}",
        "Half is {m}.\n#### {n}",
        r"Thus $\boxed{{{n}}}$.",
        r"\boxed{{{n}}}",
        "${n}$",
        r"\[ {n} \]",
        "**{n}**",
        "$${n}$$",
    ]
    responses = [
        r"So $\boxed{{{n}}}$.",
        r"So $\boxed {n}$.",
        "{m} + 1\n#### {n}",
        "#### {n}\nI hope this helps!",
        "#### {n}<|endoftext|>",
    ]
    responses += [
        "#### {n}\nThe answer is: {n}",
        "####{n}",
        "#### {n} apples",
        "#### **{n}**",
        "#### {m}\nNo.\n#### {n}",
        "The answer is {n}.",
    ]
    responses += [
        "<think>{m}? The answer is {m}.</think>The answer is {n}.",
        "**Answer: {n}**",
        "Answer: `{n}`",
        "#### {n}</s>",
        "#### {n}.",
    ]
    while True:
        n, m, other = rng.sample(NUMBERS, 3)
        is_same = rng.random() < 0.5
        gold = rng.choice(golds).format(n=n, m=m)
        yield gold, rng.choice(responses).format(n=n if is_same else other, m=m), is_same


def choices(rng: random.Random) -> Iterator[Pair]:
    """Several letters in any order, and phrases in English and Chinese."""

    def write(chosen: list[str]) -> str:
        chosen = rng.sample(chosen, len(chosen))
        return rng.choice([", ", "", " and ", ",", "; "]).join(chosen)

    phrases = [
        r"So $\boxed{{{}}}$.",
        "The answer is {}.",
        "**Answer: {}**",
        "故选：{}.",
        "答案是 {}。",
        "故选{}",
        "The correct option is {}.",
    ]
    while True:
        chosen = rng.sample("ABCD", rng.randrange(1, 4))
        others = chosen if rng.random() < 0.5 else rng.sample("ABCD", rng.randrange(1, 4))
        yield write(chosen), rng.choice(phrases).format(write(others)), set(chosen) == set(others)


def names(rng: random.Random) -> Iterator[Pair]:
    """Words, whose case, fonts and articles do not count."""
    words = [
        "Paris",
        "London",
        "Alice",
        "Bob",
        "Monday",
        "Sunday",
        "True",
        "False",
        "Yes",
        "No",
        "parallelogram",
        "north",
        "red",
    ]
    while True:
        word = rng.choice(words)
        other = word if rng.random() < 0.5 else rng.choice(words)
        forms = [
            other,
            other.lower(),
            other.upper(),
            rf"\text{{{other}}}",
            rf"\textbf{{{other}}}",
            f"**{other}**",
            f"{other}.",
            f"{other}。",
        ]
        yield word, boxed(rng.choice(forms)), word == other


GRAMMARS = [
    (math, quantities, 2400),
    (math, sentences, 4000),
    (math, scales, 1600),
    (math, leftovers, 1200),
    (math, times_of_day, 800),
    (math, letters, 1600),
    (math, ratios, 1000),
    (math, spellings, 2000),
    (math, symbols, 1000),
    (math, readers, 2400),
    (math, names, 600),
    (number, quantities, 600),
    (number, scales, 600),
    (number, leftovers, 400),
    (number, readers, 800),
    (text, names, 400),
    (choice, choices, 1000),
]


def test_there_are_as_many_pairs_as_promised() -> None:
    assert sum(size for _, _, size in GRAMMARS) == 22_400


@pytest.mark.parametrize(
    ("kind", "grammar", "size"), GRAMMARS, ids=[f"{k.__name__.split('.')[-1]}-{g.__name__}" for k, g, _ in GRAMMARS]
)
def test_equal_meanings_are_accepted_and_others_refused(
    kind: object, grammar: Callable[[random.Random], Iterator[Pair]], size: int
) -> None:
    pairs = grammar(random.Random(grammar.__name__))
    seen, wrong = set(), []
    for gold, response, is_same in (next(pairs) for _ in range(size)):
        seen.add(is_same)
        if kind.grade(gold, response).correct != is_same:
            wrong.append((gold, response, is_same))
    assert seen == {True, False}
    assert wrong == []
