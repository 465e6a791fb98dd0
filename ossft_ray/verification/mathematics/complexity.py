r"""Is an answer small enough to be compared? Cheap bounds, before a library spends minutes on it.

A model may write `9^{9^{9^9}}`, ten thousand braces or a sum of a billion terms. The pool would end the process that
tries to evaluate them, but that costs seconds each. Two looks at every answer cost microseconds instead:

* `screen_text`, before parsing: length, nesting, long numbers, lists, deep recursion in the making.
* `screen_expression`, on what was parsed, before any part of it is combined with another or compared: how many digits
  would evaluating it give, how many terms would expanding it give?

What passes may still be hard (an equation, a trigonometric identity); that is what the pool's limits are for. The
bounds are far above what answers to problems need: those of five benchmarks and of GSM8K have at most 210 characters,
brackets nested four deep, 9 digits in a row, and 48 items.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean
from sympy.matrices import MatrixBase

MAX_CHARACTERS = 1500
MAX_NESTING = 16
MAX_REPEATED = 6  # brackets that open, signs, `!` or primes in a row: each may double the parser's time
MAX_NUMBER_CHARACTERS = 400
MAX_EXPONENT_CHARACTERS = 3  # of 1E100
MAX_ITEMS = 200
MAX_RELATIONS = 20
MAX_BARS = 12

MAX_DIGITS = 10_000.0  # of a number, when evaluated: 3000!, 2^30000
MAX_TERMS = 3000.0  # of a polynomial, when expanded, or of a sum or product
MAX_DEGREE = 5000.0
MAX_ROOT = 1000  # the n of an n-th root
MAX_NODES = 3000
MAX_SYMBOLS = 30
MAX_ENTRIES = 100  # of a matrix, when all are numbers
MAX_SYMBOLIC_ENTRIES = 16  # a determinant of sixteen letters has 24 terms, one of thirty-six 720

_NUMBER = re.compile(rf"\d{{{MAX_NUMBER_CHARACTERS}}}|[eE][+-]?\d{{{MAX_EXPONENT_CHARACTERS + 1}}}")
_REPEATED = re.compile(rf"(?:[({{\[+\-!'^_]\s*|\\\{{\s*){{{MAX_REPEATED + 1}}}")
_RELATION = re.compile(r"[<>=≠≤≥≈]|\\(?:in|ne|le|ge|lt|gt|leq|geq|neq|equiv|approx)\b")
_BRACKET = re.compile(r"\\?[{(\[]|\\?[})\]]|\^")

# sympy's lambdify writes names into Python source. Names of these characters cannot call anything there.
_HARMLESS_NAME = re.compile(r"[\w \\{}^,.+\-*/|!?&%°$~<>]*")

Bounds = Mapping[Any, float]  # of the absolute value of symbols


class TooComplex(BaseException):
    """The answer is too large to be evaluated or compared in reasonable time.

    Not an Exception: Math-Verify swallows those, and goes on with less.
    """


class UnsafeName(Exception):
    """Prose with characters that are code to Python stands inside a formula."""


def screen_text(latex: str) -> None:
    r"""Look at LaTeX before it is parsed; linear in its length.

    Raises:
        TooComplex: the parser would take long, or a number is too long.
    """
    if len(latex) > MAX_CHARACTERS or _NUMBER.search(latex) or _REPEATED.search(latex):
        raise TooComplex
    if sum(map(latex.count, (",", ";", "&", r"\\"))) > MAX_ITEMS or latex.count("|") > MAX_BARS:
        raise TooComplex
    if sum(1 for _ in _RELATION.finditer(latex)) > MAX_RELATIONS or _nesting(latex) > MAX_NESTING:
        raise TooComplex


def screen_expression(expression: Any) -> None:
    """Look at what was parsed, before it is combined or compared.

    Raises:
        TooComplex: evaluating or expanding it would take long or fill the memory.
        UnsafeName: a symbol of a formula has a name that Python could run.
    """
    nodes = list(_nodes(expression))
    if len(nodes) > MAX_NODES:
        raise TooComplex
    names = {node.name for node in nodes if isinstance(node, sympy.Symbol)}
    names |= {type(node).__name__ for node in nodes if isinstance(node, AppliedUndef)}
    if len(names) > MAX_SYMBOLS:
        raise TooComplex
    if not all(_HARMLESS_NAME.fullmatch(name) for name in names) and not all(map(_is_plain, nodes)):
        raise UnsafeName
    for part in _parts(expression):
        _digits(part, {})
        _num_terms(part)


def bounded(expression: Any, largest: float) -> bool:
    """Whether a number, evaluated, is surely at most so large; False for what holds symbols."""
    if not isinstance(expression, sympy.Basic) or expression.free_symbols:
        return False
    return _largest(expression, {}) <= largest


def _nesting(latex: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.finditer(latex):
        text = bracket[0]
        if text[-1] in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif text != "^":
            depth -= 1
    return deepest


def _nodes(expression: Any) -> Any:
    if isinstance(expression, sympy.Basic):
        return sympy.preorder_traversal(expression)
    return [node for part in _parts(expression) for node in sympy.preorder_traversal(part)]


def _parts(expression: Any) -> list[Any]:
    """The entries of a matrix or a list, else the expression itself."""
    if isinstance(expression, MatrixBase):
        limit = MAX_SYMBOLIC_ENTRIES if expression.free_symbols else MAX_ENTRIES
        if len(expression.flat()) > limit:
            raise TooComplex
        return list(expression.flat())
    if isinstance(expression, list | tuple):
        return [part for item in expression for part in _parts(item)]
    return [expression] if isinstance(expression, sympy.Basic) else []


def _is_plain(node: Any) -> bool:
    """A symbol, a number, or what merely holds some: lists, sets, equations."""
    return isinstance(node, sympy.Symbol | sympy.Number | sympy.Set | sympy.Tuple | Boolean)


def _digits(node: Any, bounds: Bounds) -> float:
    """About how many decimal digits a number's numerator or denominator would have at most, when evaluated.

    Raises:
        TooComplex: it is over `MAX_DIGITS`, here or in any part.
    """
    digits = _estimate(node, bounds)
    if not digits <= MAX_DIGITS:
        raise TooComplex
    return digits


def _estimate(node: Any, bounds: Bounds) -> float:
    if isinstance(node, sympy.Rational):
        return max(abs(node.p), node.q).bit_length() * math.log10(2)
    if isinstance(node, sympy.Float):
        _, _, exponent, num_bits = node._mpf_
        return abs(exponent + num_bits) * math.log10(2) + 1
    if node in bounds:
        return math.log10(bounds[node] + 1)
    if isinstance(node, sympy.Integral | sympy.Limit):
        raise TooComplex  # an answer is what comes out of it
    if isinstance(node, sympy.Sum | sympy.Product):
        return _digits_of_series(node, bounds)
    if isinstance(node, MatrixBase):
        return max((_digits(part, bounds) for part in _parts(node)), default=0.0)
    parts = [_digits(part, bounds) for part in node.args if isinstance(part, sympy.Basic | MatrixBase)]
    if isinstance(node, sympy.Pow):
        return _digits_of_power(node, parts[0], bounds)
    if isinstance(node, sympy.factorial | sympy.gamma | sympy.exp | sympy.sinh | sympy.cosh):
        size = _largest(node.args[0], bounds)
        return size * (math.log10(size + 1) if isinstance(node, sympy.factorial | sympy.gamma) else 0.5)
    if isinstance(node, sympy.Add | sympy.Mul):
        return sum(parts)  # of a sum of fractions: the denominators multiply
    return max(parts, default=0.5)


def _digits_of_power(power: Any, base_digits: float, bounds: Bounds) -> float:
    exponent = power.exp
    if isinstance(exponent, sympy.Rational) and exponent.q > MAX_ROOT:
        raise TooComplex
    size = _largest(exponent, bounds)
    if power.base.free_symbols - bounds.keys() and size > MAX_DEGREE:
        raise TooComplex
    return max(base_digits, 0.3) * max(size, 1.0)


def _digits_of_series(series: Any, bounds: Bounds) -> float:
    """Sums and products: their number of terms is bounded where it is a number, and so is the size of every term."""
    num_terms = 1.0
    inside = dict(bounds)
    for index, *limits in series.limits:
        if len(limits) != 2:
            continue
        if all(limit.is_finite and not limit.free_symbols - inside.keys() for limit in limits):
            size = max(_largest(limit, inside) for limit in limits)
            inside[index] = size
            lower, upper = limits
            exact = isinstance(lower, sympy.Integer) and isinstance(upper, sympy.Integer)
            num_terms *= max(int(upper) - int(lower) + 1, 0) if exact else 2 * size + 1
    if num_terms > MAX_TERMS:
        raise TooComplex
    return _digits(series.function, inside) * max(num_terms, 1.0)


def _largest(node: Any, bounds: Bounds) -> float:
    """An upper bound of the absolute value; 1 for what holds other symbols, whose value nobody computes."""
    if isinstance(node, sympy.Rational):
        return abs(node.p) / node.q if abs(node.p) < 10**300 else math.inf
    if node in bounds:
        return bounds[node]
    if node.free_symbols - bounds.keys() or node.is_infinite:
        return 1.0
    digits = _digits(node, bounds)
    return 10**digits if digits < 300 else math.inf


def _num_terms(node: Any) -> float:
    """How many terms expanding it would give, roughly.

    Raises:
        TooComplex: more than `MAX_TERMS`, here or in any part.
    """
    num_terms = 1.0
    if isinstance(node, sympy.Basic) and node.args and not isinstance(node, sympy.Number):
        parts = [_num_terms(part) for part in node.args if isinstance(part, sympy.Basic)]
        if isinstance(node, sympy.Add):
            num_terms = sum(parts)
        elif isinstance(node, sympy.Mul):
            num_terms = math.prod(parts)
        elif isinstance(node, sympy.Pow) and isinstance(node.exp, sympy.Integer) and parts[0] > 1:
            power = abs(int(node.exp))
            num_terms = math.inf if power > MAX_TERMS else float(math.comb(power + int(parts[0]) - 1, power))
        else:
            num_terms = max(parts, default=1.0)
    if num_terms > MAX_TERMS:
        raise TooComplex
    return num_terms
