"""Comparison of two expressions by Math-Verify, with further conditions on what it accepts.

Math-Verify's `verify` calls two numbers equal if they differ by less than a millionth, however small they are, and
accepts the right side of any equation as an answer. So an accepted pair must also pass the conditions here. A pair that
Math-Verify rejects stays rejected, except for a solved inequality that equals an interval. The table of known faults in
the tests (`test_known_faults.py`) cites the report behind each condition.
"""

import zlib
from typing import Any

import sympy
from latex2sympy2_extended.logic import And
from math_verify import verify
from math_verify.errors import TimeoutException
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

# Exact numbers are compared to fifty digits, and numbers with a decimal point to four: 0.333333 is a third.
_PRECISION_DIGITS = 60
_EXACT_TOLERANCE = sympy.Rational(1, 10**50)
_LARGE = 10**20  # below it, fifty digits are more than the integer part
_DECIMAL_TOLERANCE = sympy.Rational(1, 10**4)


def equal(gold: Any, prediction: Any) -> bool:
    """Whether a prediction equals the gold answer. Expressions that cannot be compared are not equal."""
    try:
        solved = isinstance(gold, sympy.Set) and _is_solved(prediction)
        if not verify(gold, prediction, timeout_seconds=None, allow_set_relation_comp=solved, raise_on_error=True):
            return _same_number(gold, prediction)
        for side, other in ((gold, prediction), (prediction, gold)):
            if _is_equation(side) and not _is_equation(other) and not _names_its_right_side(side):
                return False
        if _is_equation(gold) and _is_equation(prediction) and _relations(gold)[0].lhs != _relations(prediction)[0].lhs:
            return True
        return not _values_differ(_last_side(gold), _last_side(prediction))
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return False  # such as a set and a matrix


def _same_number(one: Any, other: Any) -> bool:
    """Whether both are numbers without a decimal point and equal to fifty digits, such as e^(i pi) and -1."""
    for side in (one, other):
        if not isinstance(side, sympy.Expr) or side.has(sympy.Float):
            return False
        if side.free_symbols and not (side.has(sympy.exp) and {str(letter) for letter in side.free_symbols} == {"i"}):
            return False
    # Math-Verify reads the i of e^(i pi) as a letter.
    one, other = (side.subs(dict.fromkeys(side.free_symbols, sympy.I)) for side in (one, other))
    if isinstance(one, sympy.Rational) and isinstance(other, sympy.Rational):
        return bool(one == other)
    first, second = _value(one), _value(other)
    if first is None or second is None:
        return False
    return bool(abs(first) < _LARGE) and not _values_differ(one, other)


def product(expression: Any, factor: Any) -> Any:
    """An expression, or the right side of `x = ...`, times another; None if it is not a formula."""
    if isinstance(expression, sympy.Eq) and isinstance(expression.lhs, sympy.Symbol):
        expression = expression.rhs
    return expression * factor if isinstance(expression, sympy.Expr) else None


def as_set(expression: Any) -> tuple[Any, set[Any]] | None:
    """The set of real numbers that a solved inequality or an interval describes, and its letters; None for others."""
    if isinstance(expression, sympy.Set) and not isinstance(expression, sympy.FiniteSet):
        return expression, set()
    if (
        isinstance(expression, Relational)
        and isinstance(expression, sympy.Eq)
        and isinstance(expression.rhs, sympy.Set)
    ):
        return expression.rhs, set(expression.lhs.free_symbols)
    if not isinstance(expression, Relational | And) or not _is_solved(expression):
        return None
    letters = {letter for relation in _relations(expression) for letter in relation.free_symbols}
    if len(letters) != 1:
        return None
    return sympy.Intersection(*(relation.as_set() for relation in _relations(expression))), letters


def _relations(expression: Any) -> list[Any]:
    return list(expression._unsorted_args) if isinstance(expression, And) else [expression]


def _is_equation(expression: Any) -> bool:
    return all(isinstance(relation, sympy.Eq) for relation in _relations(expression))


def _last_side(expression: Any) -> Any:
    return _relations(expression)[-1].rhs if _is_equation(expression) else expression


def _names_its_right_side(equation: Any) -> bool:
    """Whether the right side is an answer: `x = 5`, `f(2) = 5`, `m+n = 5`, `1+4 = 5`; not `2x = 5` or `x = 5 = 6`."""
    first, *_ = relations = _relations(equation)
    *members, last = [first.lhs, *(relation.rhs for relation in relations)]
    if _is_name(members[0]):
        del members[0]
    return not any(_values_differ(member, last, or_unknown=True) for member in members)


def _is_name(expression: Any) -> bool:
    """Whether a problem may ask for it: symbols, their products, quotients and sums, and functions of anything."""
    if isinstance(expression, sympy.Pow):
        return expression.exp == -1 and _is_name(expression.base)
    if isinstance(expression, sympy.Add | sympy.Mul | sympy.Tuple):
        return all(map(_is_name, expression.args))
    return isinstance(expression, sympy.Symbol | AppliedUndef) or (
        isinstance(expression, sympy.Function) and bool(expression.free_symbols)
    )


def _is_solved(expression: Any) -> bool:
    """Whether it is an inequality of a letter and numbers, such as `0 < x < 1`, that needs no further solving."""
    return all(
        isinstance(relation, Relational)
        and not isinstance(relation, sympy.Eq)
        and all(isinstance(side, sympy.Symbol) or not side.free_symbols for side in relation.args)
        for relation in _relations(expression)
    )


def _values_differ(one: Any, other: Any, or_unknown: bool = False) -> bool:
    """Whether two formulas, or lists, sets or intervals of them, differ at some values of their letters."""
    ones, others = _members(one), _members(other)
    if ones is not None and others is not None and len(ones) == len(others):
        return any(_values_differ(*pair, or_unknown) for pair in zip(ones, others, strict=True))
    first, second = _value(one), _value(other)
    if first is None or second is None:
        return or_unknown and one != other
    has_decimals = one.has(sympy.Float) or other.has(sympy.Float)
    tolerance = _DECIMAL_TOLERANCE if has_decimals else _EXACT_TOLERANCE
    return bool(abs(first - second) > tolerance * max(abs(first), abs(second)))


def _members(expression: Any) -> list[Any] | None:
    """The members of a list, the ends of an interval, or the numbers of a set in ascending order."""
    if isinstance(expression, sympy.Interval):
        return [expression.start, expression.end]
    if isinstance(expression, sympy.Tuple):
        return list(expression.args)
    if isinstance(expression, sympy.FiniteSet) and all(member.is_number and member.is_real for member in expression):
        return sorted(expression.args, key=lambda member: member.evalf(_PRECISION_DIGITS))
    return None


def _value(expression: Any) -> Any:
    """The value of a formula at fixed numbers for its letters; None if it has no finite value."""
    if not isinstance(expression, sympy.Expr) or isinstance(expression, sympy.Symbol):
        return None
    if expression.has(sympy.UnevaluatedExpr):
        return None  # a percentage, because many gold answers write 50% as 50
    letters = {letter: _number_of(letter.name) for letter in expression.free_symbols}
    # The numbers are not substituted exactly: 2^(n^20) has millions of digits even if n is 2.
    digits = _PRECISION_DIGITS + 10
    value = expression.evalf(digits, subs=letters) if letters else expression.doit().evalf(digits)
    return value if value.is_number and value.is_finite else None


def _number_of(name: str) -> Any:
    """The number that a letter stands for, which depends on its name alone."""
    return sympy.Rational(100 + zlib.crc32(name.encode()) % 97, 83)
