"""Equations of a solution: which are read, which of them are false, and whether the answer is derived."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossft_ray.method.steps import announces_another, equations, false_equation, is_derived, number_value
from tests.data_folder import needs_data, read_data

TRUE = [
    "48/2 = 24",
    "48 clips / 2 = 24 clips in May",
    "48/2 = <<48/2=24>>24 clips",
    "$15 + $4.8 + $2.50 + $2.70 = $25",
    "Natalia sold 48+24 = 72 clips altogether",
    "1,000 x 3 = 3,000",
    "3×4 = 12 and 3 · 4 = 12 and 12 ÷ 4 = 3",
    r"$\frac{12}{60} \times 50 = 10$",
    r"\[ \left(2 + 3\right) \cdot 4 = \boxed{20} \]",
    r"10\,000 - 1{,}000 = 9\,000",
    r"20\% \text{ of } 50 = 10",
    "20% of the 50 students = 10 students",
    "100% - 30% = 70%",
    "45 / 60 * 100 = 75%",
    "45 / 60 = 75%",
    "10 / 3 = 3.33",
    "20 / 3 = 6.66",
    "20 / 3 = 7 packs",
    "7 / 2 = 3",
    "1.05 * 19.99 = 20.99",
    "33.33 * 3 = 100",
    "3 + 4 = 7 * 2 = 14",
    "(3 + 4) * 2 = 7 * 2 = 14",
    "2(3 + 4) = 14",
    "2^3 = 8, 2**3 = 8, 5² = 25 and 10^{2} = 100",
    "1 1/2 * 2 = 3",
    r"2\frac{1}{2} * 2 = 5",
    "50 / 1/2 = 100",
    "-5 + 3 = -2",
    "- 5 + 3 = 8",  # a list item
    "1. 5 + 3 = 8",
    "**5 + 3 = 8**",
    "5 + 3\n= 8",
    "60 minutes/hour * 2 hours = 120 minutes",
    "$5 a day * 3 = $15",
    "3 times 60 = 180",
    "180 minus 150 equals 30",
    "multiply 17 by 10, which is 170",
    "If you subtract 4 from 10 to get 6",
    "5 == 2 + 3",
    "12 = 5 + 7",
]
FALSE = [
    "$15 + $4.8 + $2.50 + $2.7 = $9.50",
    "2 liters * 20% = 0.8",
    "72 - 48 = 25",
    "48/2 = <<48/2=25>>24",
    "48/2 = <<48/2=24>>25",
    "She has a total of 5 + 3 = 9 apples",
    r"$\frac{12}{60} \times 50 = 11$",
    "3 + 4 = 7 * 2 = 15",
    "3 + 4 = 8 = 2 * 4",
    "10 / 3 = 3.4",
    "10 / 3 = 5",
    "2.5 * 3 = 7",
    "20% of 50 = 12",
    "1,000 * 3 = 3,001",
    "multiply 17 by 10, which is 17",
    "(2 + 3) * 4 = 14",
    "10 = 3 * 4",
    "2 + 2 = 5. Then 3 + 3 = 6",
]
UNREADABLE = [
    "x + 3 = 8",
    "2x = 10",
    "8 = 2x",
    "3ab = 3 * 4",
    "x = 8",
    "1 hour = 60 minutes",
    "72 hours = 3 days",
    "2 hours + 30 minutes = 150 minutes",
    "$2 - 50 cents = $1.50",
    "half of 40 + 8 = 28",
    "the average of 3 + 5 = 4",
    "the square root of 9 + 7 = 4",
    r"\sqrt{9} + 1 = 4",
    r"\sqrt{16}{4} = 2 + 2",
    "Day 1 = 5 * 2",
    "Cost of 5 apples = 5 * 2",
    "apples - 5 + 3 = 9",
    "1 + 1 = x",
    "5 + 3 = 8x",
    "5! = 120",
    "n_1 + 2 = 9",
    "5 : 3 = 2",
    "10:30 + 15 = 45",
    "3 + 5 <= 9, 3 + 5 >= 1, 3 + 5 != 9",
    "f(2, 3) + 1 = 4",
    "6 is 3 more than 4 - 1",
    "2 * 3 = 6 million / 2",
    "5 / 0 = 1",
    "10^999999 = 3",
    "2 + 3 = two",
    "1,5 + 1 = 3",
    "((((((((((((((1 + 1)))))))))))))) = 3",
    "1 + " * 60 + "1 = 3",
    "",
]


@pytest.mark.parametrize("text", TRUE)
def test_true_equations_are_read(text: str) -> None:
    found = list(equations(text))
    assert found and all(equation.is_true for equation in found)


@pytest.mark.parametrize("text", FALSE)
def test_a_false_equation_is_found_wherever_it_stands(text: str) -> None:
    assert false_equation(text)
    assert false_equation(f"We compute: {text}. So it is 3 + 4 = 7.")


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_equations_are_no_fault(text: str) -> None:
    assert false_equation(text) is None


@given(st.lists(st.integers(0, 999), min_size=2, max_size=5), st.sampled_from("+-*"), st.data())
def test_any_sum_is_true_and_any_other_result_is_false(numbers: list[int], sign: str, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(["", " apples", " km", " pounds each"]))
    currency = data.draw(st.sampled_from(["", "$", "€"]))
    shown = f" {sign} ".join(f"{currency}{number:,}{unit}" for number in numbers)
    result = eval(sign.join(map(str, numbers)))
    wrong = result + data.draw(st.integers(1, 99))
    assert [equation.is_true for equation in equations(f"{shown} = {currency}{result:,}{unit}, I say.")] == [True]
    assert [equation.is_true for equation in equations(f"{shown} = {currency}{wrong:,}{unit}, I say.")] == [False]


GUIDE = "She sold 48/2 = 24 in May.\nTogether 48+24 = 72."


@pytest.mark.parametrize(
    "text, answer, guide, derived",
    [
        ("The answer is 72.", "72", GUIDE, False),
        ("72 is indeed the result. #### 72", "72", GUIDE, False),
        ("Step 1: add. Step 2: it is 72.", "72", GUIDE, False),
        ("1. add\n2. it is 72.", "72", GUIDE, False),
        ("48/2 = 24 and 48 + 24 = 72.", "72", GUIDE, True),
        ("48 * 1.5 = 72", "72", GUIDE, True),
        ("In April 48, in May 24, so 72 in all.", "72", GUIDE, True),
        ("In April 48, in May 25, so 72 in all.", "72", GUIDE, False),
        ("From 48 and 25 I get 72.", "72", "", True),
        ("From 48 I get 72.", "72", "", False),
        ("72 - 48 = 24. It is 72.", "72", GUIDE, False),
        ("2x = 144, so x = 72.", "72", GUIDE, True),
        ("100 / 3 = 33.33, so 33 packs.", "33", GUIDE, True),
        ("45 / 60 = 0.75, which is 75%.", "75", GUIDE, True),
        ("5 - 8 = -3", "-3", GUIDE, True),
        ("Clearly.", r"\frac{1}{2}", GUIDE, True),
        ("Clearly.", "Evelyn", GUIDE, True),
    ],
)
def test_is_derived(text: str, answer: str, guide: str, derived: bool) -> None:
    assert is_derived(text, answer, "", guide) is derived


@pytest.mark.parametrize(
    "text, answer, found",
    [
        ("#### 24\n#### 72", "72", True),
        ("The answer is 45. The final answer is 72.", "72", True),
        ("The answer is $72$. #### 72", "72", False),
        ("The answer is 72.00, so the answer is 72 km.", "72", False),
        ("The answer is 33.", "33.33", False),
        ("The answer is 48 + 24.", "72", False),
        ("The answer is 20 more than 52, so the answer is 72.", "72", False),
        ("The answer is 3/4.", "0.75", False),
        ("The answer is Evelyn. The answer is 3.", "Evelyn", False),
    ],
)
def test_announces_another(text: str, answer: str, found: bool) -> None:
    assert announces_another(text, answer) is found


@pytest.mark.parametrize(
    "text, derived",
    [
        ("60 + 12 = 72", False),  # the guide computes 60 and 12
        ("30 * 2 = 60, 60 / 5 = 12 and 60 + 12 = 72", True),
        ("Walking takes 60 minutes and feeding 12, so 60 + 12 = 72.", False),
        ("Its 2 toys cost 36 each, so 2 * 36 = 72.", True),  # said before it is used
        ("24 * 3 = 72", True),  # a common number that the guide does not compute
    ],
)
def test_a_number_that_the_guide_computes_must_be_computed(text: str, derived: bool) -> None:
    question = "He walks for half an hour, twice a day, and feeds the dog for a fifth of an hour. How many minutes?"
    guide = "He walks 30 * 2 = 60 minutes, feeds it 60 / 5 = 12 minutes, and 60 + 12 = 72."
    assert is_derived(text, "72", question, guide) is derived


@pytest.mark.parametrize(
    "text, value",
    [("72", 72), ("$1,200", 1200), ("-5 km", 5), ("3/4", None), ("x_1", None), ("2 or 3", None), ("", None)],
)
def test_number_value(text: str, value: int | None) -> None:
    assert number_value(text) == value


@needs_data
def test_hardly_any_solution_of_gsm8k_is_rejected() -> None:
    """Of 7,473 solutions by people, 0.6% hold an equation that is read as false, and most of those are false."""
    solutions = [row["answer"] for row in read_data("gsm8k_train")]
    assert sum(false_equation(text) is not None for text in solutions) <= 50
    split = [text.rpartition("####") for text in solutions]
    assert sum(not is_derived(text, answer.strip(), "", text) for text, _, answer in split) <= 75
    assert sum(announces_another(text, answer.strip()) for text, _, answer in split) <= 2
    assert sum(len(list(equations(text))) for text in solutions) > 40_000


@pytest.mark.thorough
@pytest.mark.parametrize(
    "piece",
    [
        "1+1=2",
        "=",
        "1 ",
        "(",
        "((1)/",
        "$",
        "\\frac{1}{2}",
        "<<1=1>>",
        "1 + ",
        "a = ",
        "\n",
        " ",
        "1" + 99 * " ",
        "*",
        "1,",
        "x_",
        "-",
        "% of ",
    ],
)
def test_a_megabyte_of_anything_takes_seconds(piece: str) -> None:
    started = time.process_time()
    text = piece * (300_000 // len(piece))
    false_equation(text)
    is_derived(text, "72", text, text)
    assert time.process_time() - started < 30
