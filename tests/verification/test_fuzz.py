"""Grading never raises, and a well-formed answer equals only other forms of itself."""

import datetime
import math
import string
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossft_ray.common import verdict
from ossft_ray.common.verdict import CORRECT, UNPARSED, WRONG
from ossft_ray.verification.kinds.math import grade

pytestmark = pytest.mark.thorough

REASONS = {value for name, value in vars(verdict).items() if name.isupper()}

# Every run has the same examples, bounded in number and time.
deterministic = settings(max_examples=150, derandomize=True, deadline=datetime.timedelta(seconds=20))
few = settings(deterministic, max_examples=40)

GOLDS = st.sampled_from(["5", r"\frac{1}{2}", "x+1", r"\{1, 2\}", "(1, 2)", "[0, 1)", "x > 3", "x = 5", r"\text{May}"])
FRAGMENTS = st.sampled_from(
    [
        *(r"\boxed{", "}", "{", "(", ")", "[", "]", r"\{", r"\}", "|", "$", "$$", r"\[", r"\]", r"\(", r"\)", "####"),
        *("5", "0", "12", "0.5", "1,000", "1/2", "x", "y", "n", "e", "i", r"\pi", r"\infty", r"\%", "%", "E", "."),
        *("+", "-", "*", "/", "^", "_", "!", "=", "<", r"\leq", r"\neq", ",", ";", ":", "'", r"\cdot", r"\pm", r"\in"),
        *(
            r"\frac{1}{2}",
            r"\frac",
            r"\sqrt",
            r"\sqrt{2}",
            r"\sin",
            r"\log",
            r"\ln",
            r"\binom{4}{2}",
            r"\left(",
            r"\right)",
        ),
        *(r"\text{ cm}", r"\text{and}", r"\mathrm", r"^\circ", r"\cup", r"\emptyset", r"\mathbb{R}", r"\ldots", "\\\\"),
        *(r"\begin{pmatrix}", r"\end{pmatrix}", "&", "the answer is ", "final answer is ", "</think>", "<think>"),
        *(" ", "\n", "\t", "\0", "\u200b", "\ud800", "\u0665"),
    ]
)


def is_sound(answer: str, response: str) -> bool:
    result = grade(answer, response)
    return result.reason in REASONS and result.correct == (result.reason == CORRECT)


@given(GOLDS, st.text(max_size=500))
@deterministic
def test_any_text(answer: str, text: str) -> None:
    assert is_sound(answer, text)
    assert is_sound(answer, rf"\boxed{{{text}}}")
    assert is_sound(text, rf"\boxed{{{answer}}}")


@given(GOLDS, st.text(string.printable, max_size=100))
@deterministic
def test_announced_text(answer: str, text: str) -> None:
    assert is_sound(answer, f"The final answer is {text}. I hope it is correct.")


@given(GOLDS, st.lists(FRAGMENTS, max_size=10))
@deterministic
def test_fragments_of_latex(answer: str, fragments: list[str]) -> None:
    text = "".join(fragments)
    assert is_sound(answer, text)
    assert is_sound(answer, rf"so \boxed{{{text}}}.")
    assert is_sound(text, rf"\boxed{{{answer}}}")


INTEGERS = st.integers(-9999, 9999)
FRACTIONS = st.builds(Fraction, INTEGERS, st.integers(1, 99))


def latex(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def other_form(value: Fraction) -> str:
    """The same number, written with a common factor and a slash."""
    return f"{3 * value.numerator}/{3 * value.denominator}"


def verdicts(answer: str, right: str, wrong: str) -> tuple[str, str]:
    return grade(answer, rf"Thus \boxed{{{right}}}.").reason, grade(answer, rf"Thus \boxed{{{wrong}}}.").reason


@given(FRACTIONS, st.builds(Fraction, st.integers(1, 50), st.integers(1, 50)))
@few
def test_numbers(value: Fraction, difference: Fraction) -> None:
    assert verdicts(latex(value), other_form(value), latex(value + difference)) == (CORRECT, WRONG)


@given(st.lists(FRACTIONS, min_size=2, max_size=5, unique=True))
@few
def test_sets_have_no_order(values: list[Fraction]) -> None:
    shuffled = sorted(values, key=lambda value: value % 7)
    answer = r"\{" + ", ".join(map(latex, values)) + r"\}"
    right = r"\{" + ", ".join(map(other_form, shuffled)) + r"\}"
    wrong = r"\{" + ", ".join(map(latex, [values[0] + 1000, *values[1:]])) + r"\}"
    assert verdicts(answer, right, wrong) == (CORRECT, WRONG)


@given(st.lists(FRACTIONS, min_size=3, max_size=5, unique=True))
@few
def test_tuples_have_an_order(values: list[Fraction]) -> None:
    answer = f"({', '.join(map(latex, values))})"
    right = f"({', '.join(map(other_form, values))})"
    wrong = f"({', '.join(map(latex, values[::-1]))})"
    assert verdicts(answer, right, wrong) == (CORRECT, WRONG)


@given(FRACTIONS, st.integers(1, 99), st.sampled_from(["[", "("]), st.sampled_from(["]", ")"]))
@few
def test_intervals_differ_by_their_ends(start: Fraction, length: int, opening: str, closing: str) -> None:
    answer = f"{opening}{latex(start)}, {latex(start + length)}{closing}"
    right = rf"\left{opening}{other_form(start)}, {other_form(start + length)}\right{closing}"
    assert verdicts(answer, right, f"{opening}{latex(start)}, {latex(start + length + 1)}{closing}") == (CORRECT, WRONG)
    other_closing = ")" if closing == "]" else "]"
    assert grade(answer, rf"\boxed{{{opening}{latex(start)}, {latex(start + length)}{other_closing}}}").reason == WRONG


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=4), st.integers(1, 9))
@few
def test_polynomials(roots: list[int], difference: int) -> None:
    factored = "".join(f"(x-{root})" if root >= 0 else f"(x+{-root})" for root in roots)
    coefficients = [1]
    for root in roots:
        coefficients = [high - root * low for high, low in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(roots)
    expanded = "+".join(f"({value})x^{{{degree - index}}}" for index, value in enumerate(coefficients))
    assert verdicts(expanded, factored, f"{factored}+{difference}") == (CORRECT, WRONG)


@given(st.integers(2, 400))
@few
def test_roots(number: int) -> None:
    answer = rf"\sqrt{{{number}}}"
    assert grade(answer, rf"\boxed{{\frac{{{number}}}{{\sqrt{{{number}}}}}}}").reason == CORRECT
    if math.isqrt(number) ** 2 != number:
        assert grade(answer, rf"\boxed{{\sqrt{{{number + 1}}}}}").reason in (WRONG, UNPARSED)
