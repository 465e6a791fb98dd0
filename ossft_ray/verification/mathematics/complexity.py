r"""Cheap bounds on the complexity of an answer, checked before a library spends minutes on it.

A model may write `9^{9^{9^9}}`, ten thousand braces or a sum of a billion terms. The pool would kill the process that
evaluates them, which costs seconds each time. Two checks take microseconds instead:

* `check_text`, before parsing, bounds the length, the nesting, long numbers and lists.
* `check_expression`, before a parsed part is used, bounds the digits of its value and the terms of its expansion.

An answer that passes may still be hard, and then meets the limits of the pool. The bounds are far above what correct
answers need: those of five benchmarks and GSM8K have at most 210 characters, 4 levels of brackets and 48 items.
"""

import itertools
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
MAX_REPEATED = 6  # opening brackets, signs, `!` or primes in a row: each may double the parser's time
MAX_NUMBER_CHARACTERS = 400
MAX_EXPONENT_CHARACTERS = 3  # of 1E100
MAX_ITEMS = 200
MAX_RELATIONS = 20
MAX_BARS = 12

MAX_DIGITS = 10_000.0  # of an evaluated number, such as 3000! or 2^30000
MAX_TERMS = 3000.0  # of an expanded polynomial, or of a sum or product
MAX_DEGREE = 5000.0
MAX_ROOT = 1000  # the n of an n-th root
MAX_NODES = 3000
MAX_SYMBOLS = 30
MAX_ENTRIES = 100  # of a matrix of numbers
MAX_SYMBOLIC_ENTRIES = 16  # the determinant of 16 letters has 24 terms, that of 36 letters has 720

_NUMBER = re.compile(rf"\d{{{MAX_NUMBER_CHARACTERS}}}|[eE][+-]?\d{{{MAX_EXPONENT_CHARACTERS + 1}}}")
_REPEATED = re.compile(rf"(?:[({{\[+\-!'^_]\s*|\\\{{\s*){{{MAX_REPEATED + 1}}}")
_RELATION = re.compile(r"[<>=≠≤≥≈]|\\(?:in|ne|le|ge|lt|gt|leq|geq|neq|equiv|approx)\b")

# sympy's lambdify writes names into Python source. A name of these characters cannot call anything there.
_HARMLESS_NAME = re.compile(r"[\w \\{}^,.+\-*/|!?&%°$~<>]*")
_PLAIN = (sympy.Symbol, sympy.Number, sympy.Set, sympy.Tuple, Boolean)  # an unsafe name in these is prose, not code

Bounds = Mapping[Any, float]  # on the absolute values of symbols


class TooComplex(BaseException):
    """The answer is too large to be evaluated or compared. A BaseException, because Math-Verify catches Exception."""


class UnsafeName(Exception):
    """A formula has a symbol whose name could run as Python code."""


def check_text(latex: str) -> None:
    r"""Check LaTeX before it is parsed, in linear time.

    Raises:
        TooComplex: parsing would take long, or a number is too long.
    """
    if len(latex) > MAX_CHARACTERS or _NUMBER.search(latex) or _REPEATED.search(latex):
        raise TooComplex
    if sum(map(latex.count, (",", ";", "&", r"\\"))) > MAX_ITEMS or latex.count("|") > MAX_BARS:
        raise TooComplex
    depths = itertools.accumulate((character in "({[") - (character in ")}]") for character in latex)
    if sum(1 for _ in _RELATION.finditer(latex)) > MAX_RELATIONS or max(depths, default=0) > MAX_NESTING:
        raise TooComplex


def check_expression(expression: Any) -> Any:
    """Return a parsed expression that may safely be combined or compared.

    Raises:
        TooComplex: evaluating or expanding it would take long or fill the memory.
        UnsafeName: a symbol of a formula has a name that could run as Python code.
    """
    nodes = list(_nodes(expression))
    if len(nodes) > MAX_NODES:
        raise TooComplex
    names = {node.name for node in nodes if isinstance(node, sympy.Symbol)}
    names |= {type(node).__name__ for node in nodes if isinstance(node, AppliedUndef)}
    if len(names) > MAX_SYMBOLS:
        raise TooComplex
    if not (all(map(_HARMLESS_NAME.fullmatch, names)) or all(isinstance(node, _PLAIN) for node in nodes)):
        raise UnsafeName
    for part in _parts(expression):
        _digits(part, {})
        _num_terms(part)
    return expression


def is_small(expression: Any, largest: float) -> bool:
    """Whether the absolute value of a number is surely at most `largest`; True for an expression with symbols."""
    if expression.free_symbols:
        return True
    return isinstance(expression, sympy.Basic) and _largest(expression, {}) <= largest


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


def _digits(node: Any, bounds: Bounds) -> float:
    """Estimate an upper bound on the decimal digits of the numerator and denominator of an evaluated number.

    Raises:
        TooComplex: the estimate exceeds `MAX_DIGITS`, here or in any part.
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
        raise TooComplex  # an answer states its value instead
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
        return sum(parts)  # also for sums, because the denominators of fractions multiply
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
    """Bound the number of terms of a sum or product, if it is known, times the digits of the largest term."""
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
    """An upper bound on the absolute value; 1 for an expression with unbounded symbols, which is never evaluated."""
    if isinstance(node, sympy.Rational):
        return abs(node.p) / node.q if abs(node.p) < 10**300 else math.inf
    if node in bounds:
        return bounds[node]
    if node.free_symbols - bounds.keys() or node.is_infinite:
        return 1.0
    digits = _digits(node, bounds)
    return 10**digits if digits < 300 else math.inf


def _num_terms(node: Any) -> float:
    """Estimate the number of terms of the expanded expression.

    Raises:
        TooComplex: the estimate exceeds `MAX_TERMS`, here or in any part.
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
