"""The kind `number`: one behaviour per row."""

from decimal import Decimal

import pytest

from ossft_ray.verification.kinds import load_kind
from ossft_ray.verification.kinds.number import grade, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", "5"),
        ("-7", "-7"),
        ("−7", "-7"),  # U+2212
        ("1,234,567.5", "1234567.5"),
        (r"1{,}234", "1234"),
        ("1 234.5", "1234.5"),
        ("1'234", "1234"),
        (".5", "0.5"),
        ("5.", "5"),
        ("x = 5", "5"),
        ("(5)", "5"),
        (r"\approx 3.14", "3.14"),
        ("about 7", "7"),
        ("2 1/2", "2.5"),
        (r"-2\frac{1}{2}", "-2.5"),
        (r"\frac12", "0.5"),
        (r"4.5 \times 10^{33}", "4.5e33"),
        ("4.5e-3", "4.5e-3"),
        ("10^4", "1e4"),
        (r"\$18", "18"),
        ("$18", "18"),
        ("5 apples", "5"),
        ("5 km because it is", "5"),
        ("1,23", None),  # a decimal comma, or two numbers
        ("1,00,000", None),
        ("3 or 4", None),
        ("5 and 6", None),
        ("2x", None),
        (r"2\pi", None),
        ("2^{10}", None),
        ("0x1F", None),
        ("1:2", None),
        ("1/0", None),
        ("five", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("1e1000000000", None),
        ("1e99999999999999999999", None),
        ("9" * 100_000, None),
    ],
)
def test_read_number(text: str, value: str | None) -> None:
    number = read_number(text)
    assert (number and number.value) == (value and Decimal(value))


@pytest.mark.parametrize(
    ("answer", "response", "settings", "reason"),
    [
        ("5 km", r"\boxed{5000\,\mathrm{m}}", {}, "correct"),
        ("5 km", r"\boxed{5}", {}, "correct"),
        ("5", r"\boxed{5 km}", {}, "correct"),
        ("5 km", r"\boxed{5\text{ s}}", {}, "wrong"),
        ("5 km", r"\boxed{5\text{ m}}", {}, "wrong"),
        ("20 degC", r"\boxed{293.15\,\mathrm{K}}", {}, "correct"),
        (r"180^\circ", r"\boxed{3.14159265359 \text{ rad}}", {}, "correct"),
        ("9.8 m/s^2", r"\boxed{9.8\,\mathrm{m\,s^{-2}}}", {}, "correct"),
        ("50%", r"\boxed{0.5}", {}, "correct"),
        ("50%", r"\boxed{50}", {}, "correct"),
        ("50", r"\boxed{50\%}", {}, "wrong"),  # that is 0.5
        ("0.5", r"\boxed{50\%}", {}, "correct"),
        ("50%", r"\boxed{5}", {}, "wrong"),
        ("1/3", r"\boxed{0.3333333}", {}, "correct"),
        ("1/3", r"\boxed{0.333}", {}, "wrong"),
        ("1/3", r"\boxed{0.333}", {"relative_tolerance": 0.01}, "correct"),
        ("0", r"\boxed{0.001}", {"relative_tolerance": 0.01}, "wrong"),
        ("0", r"\boxed{0.001}", {"absolute_tolerance": 0.01}, "correct"),
        ("5", r"\boxed{-5}", {}, "wrong"),
        ("5", r"\boxed{x}", {}, "unparsed"),
        ("x", r"\boxed{5}", {}, "unparsed"),
        ("5", "It is 5.", {}, "no_answer"),
        ("", r"\boxed{5}", {}, "no_gold"),
    ],
)
def test_grade(answer: str, response: str, settings: dict[str, float], reason: str) -> None:
    verdict = grade(answer, response, **settings)
    assert (verdict.reason, verdict.correct) == (reason, reason == "correct")


@pytest.mark.parametrize(("answer", "reason"), [("5 km", "correct"), ("five", "unparsed"), ("", "no_gold")])
def test_a_gold_answer_must_be_a_number(answer: str, reason: str) -> None:
    assert load_kind("number").check_answer(answer, relative_tolerance=0.1).reason == reason
