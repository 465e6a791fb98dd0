"""The words around a value, and the conversion of units: one behaviour per row."""

from fractions import Fraction

import pytest

from ossft_ray.verification.quantities import compound, conversion, read_wording, split
from ossft_ray.verification.units import factor, leading_unit


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        ("5", ([], "5", [])),
        (r"5\text{ km/h}", ([], "5", ["km", "/", "h"])),
        ("5 km/h", ([], "5", ["km", "/", "h"])),
        ("5cm", ([], "5", ["cm"])),
        ("2ab", ([], "2ab", [])),
        ("3xy", ([], "3xy", [])),
        (r"\$18 a week", (["$"], "18", ["a", "week"])),
        ("less than 5", (["less", "than"], "5", [])),
        (r"20^\circ C", ([], "20", ["degree", "C"])),
        (r"\sin x", ([], r"\sin x", [])),
        ("5个", ([], "5", ["个"])),
        ("parallelogram", ([], "", ["parallelogram"])),
    ],
)
def test_split(latex: str, parts: tuple[list[str], str, list[str]]) -> None:
    assert split(latex) == parts


@pytest.mark.parametrize(
    ("gold", "other", "expected"),
    [
        (r"5\text{ km}", r"5\text{ m}", Fraction(1, 1000)),
        (r"5\text{ m}", r"5\text{ square meters}", None),
        (r"5\text{ meters squared}", "5", Fraction(1)),
        ("5", "5 squared", None),
        ("5 apples", "5", Fraction(1)),
        ("5 apples", "5 days", None),
        ("5 eighths", "5", None),
        (r"\$5", "5 cents", Fraction(1, 100)),
        ("£5", "5 pounds", Fraction(1)),
        (r"\$18 per day", r"\$18", Fraction(1)),
        (r"\$18 per day", r"\$18 per week", None),
        ("3:30 am", "3:30 pm", None),
        ("Day 3", "3", Fraction(1)),
        ("Day 3", "Team 3", None),
        ("twice 5", "5", None),
        ("Tom = 3", "Ann = 3", None),
    ],
)
def test_conversion(gold: str, other: str, expected: Fraction | None) -> None:
    wordings = []
    for text in (gold, other):
        before, _, after = split(text.replace("£", r"\text{ pound_sterling }"))
        wordings.append(read_wording(before, after))
    assert conversion(*wordings) == expected


def test_an_amount_in_several_units_is_one_amount() -> None:
    found = compound(r"2\text{ h }30\text{ min}")
    assert found is not None and (found[0], found[1].after) == (Fraction(5, 2), ("h",))
    assert compound("2 h 30 kg") is None and compound("2 h") is None


def test_units_convert_exactly_and_only_to_their_kind() -> None:
    inch, meter, degree, bit = (leading_unit((name,))[0] for name in ("inch", "m", "degree", "bit"))
    assert factor(inch, meter) == Fraction(254, 10000)
    assert factor(meter, inch) == Fraction(10000, 254)
    assert factor(degree, bit) is None
    assert leading_unit(("apples",)) == (None, ("apples",))
