r"""Rewriting of common notation that Math-Verify misreads or does not know, on an answer normalised by `latex_of`.

Mixed numbers and powers of ten as in plain text, repeating decimals, combinations and permutations, angles in degrees
within trigonometric functions, plain names (`pi`, `sqrt(2)`), intervals with reversed brackets (`]0, 1[`).
"""

import math
import re
from fractions import Fraction

_MAX_PERMUTED = 200
_BINOMIAL = re.compile(r"\(?\s*\\begin\{array\}\{[lcr]\}\s*(\w+)\s*\\\\\s*(\w+)\s*\\end\{array\}\s*\)?")
_CHOSEN = re.compile(
    r"(?<![A-Za-z\\])(?:C|\\text\{C\})\s*(?:_\{?(\d+)\}?\s*\^\{?(\d+)\}?|\^\{?(\d+)\}?\s*_\{?(\d+)\}?)"
)
_PERMUTED = re.compile(r"(?<![A-Za-z\\])(?:A|P|\\text\{[AP]\})\s*(?:_\{?(\d+)\}?\s*\^\{?(\d+)\}?)")
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)(?:\\overline\s*\{\s*(\d+)\s*\}|\\bar\s*\{?(\d+)\}?|\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?)"
)
_MIXED = re.compile(r"(?<![\d.\w}^_/*+(-])(-?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.\w])")
_SPACED_MIXED = re.compile(r"(?<=\d)\s+(?=\\[dt]?frac\s*\{?\s*\d+\s*\}?\s*\{?\s*\d+\s*\}?)")
_AND_A_HALF = re.compile(r"(?<=\d)\s*(?:\\text\{\s*and a half\s*\}|and a half\b)")
_EXPONENT = re.compile(r"(?<![\w.\\])(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?![\w.])")
_STARS = re.compile(r"(?<=[\w)}])\s*\*\*\s*")
_DEGREES = re.compile(
    r"\\(sin|cos|tan|cot|sec|csc)\s*(?:\(\s*(-?[\d.]+)\s*\^\s*\{?\s*\\circ\s*\}?\s*\)|\{?\s*(-?[\d.]+)\s*\^\s*\{?\s*\\circ\s*\}?\s*\}?)"
)
_NAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![A-Za-z\\])(?:pi|PI|Pi)(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*\{", r"\\sqrt{"),
        (r"(?<![A-Za-z\\])sqrt\s*(\d+)", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|log|ln|arcsin|arccos|arctan)(?=\s*[(\\\dxtyn]|\^)", r"\\\1 "),
        (r"(?<![A-Za-z\\])(?:lg|\\text\{lg\})(?![A-Za-z])|\\lg(?![A-Za-z])", r"\\log_{10} "),
        (r"\\text\{\s*(sin|cos|tan|cot|ln|log|lcm|gcd)\s*\}", r"\\\1 "),
        (r"\\(lcm|gcd)(?![A-Za-z])", r"\\operatorname{\1}"),
        (r"\\text\{\s*([eid])\s*\}(?=\s*(?:[\^+\-*/=)}]|\Z|\\))", r"\1"),
        (r"(?<![\w}])(\w+)\s*\\choose\s*(\w+)", r"\\binom{\1}{\2}"),
        (r"<\s*=", r"\\le "),
        (r">\s*=", r"\\ge "),
        (r"\\(?:leqslant|leqq)(?![A-Za-z])", r"\\le "),
        (r"\\(?:geqslant|geqq)(?![A-Za-z])", r"\\ge "),
        (r"!=", r"\\ne "),
        (r"(?<=\d)\s*\\cdotp?\s*(?=10\s*\^)", r" \\times "),
    )
]
_FLIPPED = re.compile(r"\]\s*([^\[\]]+,[^\[\]]+)\[|\[([^\[\]]+,[^\[\]]+)\[|\]([^\[\]]+,[^\[\]]+)\]")


def rewrite(latex: str) -> str:
    r"""An answer in the notation that Math-Verify reads.

    >>> rewrite(r"2 1/2"), rewrite(r"0.\overline{3}"), rewrite(r"C_{10}^{3}")
    ('2\\frac{1}{2}', '\\frac{1}{3}', '\\binom{10}{3}')
    """
    if r"\begin" in latex:
        latex = _BINOMIAL.sub(r"\\binom{\1}{\2}", latex)
    for pattern, replacement in _NAMES:
        latex = pattern.sub(replacement, latex)
    latex = _STARS.sub("^", latex) if latex.count("**") == 1 else latex
    latex = _CHOSEN.sub(_binomial, latex)
    latex = _PERMUTED.sub(_permutations, latex)
    latex = _REPEATING.sub(_repeating, latex) if "." in latex else latex
    latex = _AND_A_HALF.sub(r"\\frac{1}{2}", latex)
    latex = _SPACED_MIXED.sub("", _MIXED.sub(r"\1\2\\frac{\3}{\4}", latex))
    latex = _EXPONENT.sub(_scientific, latex)
    latex = _DEGREES.sub(lambda match: rf"\{match[1]}(\frac{{{match[2] or match[3]}\pi}}{{180}})", latex)
    return _FLIPPED.sub(_interval, latex)


def _binomial(match: re.Match[str]) -> str:
    above, below = (match[1], match[2]) if match[1] else (match[4], match[3])
    return rf"\binom{{{above}}}{{{below}}}" if int(below) <= int(above) else match[0]


def _permutations(match: re.Match[str]) -> str:
    above, below = int(match[1]), int(match[2])
    return str(math.perm(above, below)) if 2 <= below <= above <= _MAX_PERMUTED else match[0]


def _repeating(match: re.Match[str]) -> str:
    whole, fixed = match[1] or "0", match[2]
    period = match[3] or match[4] or (match[5] + (match[6] + match[7] if match[7] else ""))
    value = Fraction(int(whole + fixed + period) - int(whole + fixed), (10 ** len(period) - 1) * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _scientific(match: re.Match[str]) -> str:
    return rf"{match[1]} \times 10^{{{int(match[2])}}}"


def _interval(match: re.Match[str]) -> str:
    if match[1]:
        return f"({match[1]})"
    return f"[{match[2]})" if match[2] else f"({match[3]}]"
