"""One form for the many ways to write an answer: one behaviour per row."""

import time

import pytest

from ossft_ray.verification.normalisation import latex_of, plain_characters


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("（１，２）", "(1,2)"),
        ("5．2", "5.2"),
        ("5。", "5. "),
        ("−5 – 6", "-5 - 6"),
        ("\u200b5\u200e", "5"),
        ("٣", "3"),
        ("x²", "x^2"),
        ("½", "1/2"),
        ("“a”、b", '"a", b'),
    ],
)
def test_plain_characters(text: str, plain: str) -> None:
    assert plain_characters(text) == plain


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("$x$ and $y$", "x and y"),
        ("$18 a week and $20 a month", r"\$18 a week and \$20 a month"),
        ("$9{,}500", r"\$9,500"),
        (r"\text{\$}18", r"\$18"),
        (r"\[ 5 \]", "5"),
        ("**5**", "5"),
        ("5**2", "5**2"),
        (r"\mathbf{2 3}", "23"),
        (r"\textcolor{red}{5}", "5"),
        (r"\left(1, 2\right)", "(1, 2)"),
        (r"185\\", "185"),
        (r"1\ 000", "1000"),
        (r"12\,345", "12345"),
        (r"10{:}30\text{ a.m.}", r"10:30\text{ a.m.}"),
        (r"\begin{aligned} x &= 5 \end{aligned}", "x = 5"),
        ("2√3", r"2 \sqrt{3}"),
        ("x¹⁰", "x^{10}"),
        ("20°C", r"20^\circ C"),
        ("5–7", r"5 \text{to} 7"),
        ("0.333...", "0.333..."),
        ("5<|endoftext|>", "5"),
    ],
)
def test_latex_of(text: str, latex: str) -> None:
    assert latex_of(text) == latex


@pytest.mark.parametrize("piece", [" ", "$", "\\", "{", "5 ", "**", r"\text{", "．", "\\,"])
def test_long_texts_take_little_time(piece: str) -> None:
    started = time.process_time()
    latex_of(piece * (1500 // len(piece)))  # the length that `math` reads
    assert time.process_time() - started < 2
