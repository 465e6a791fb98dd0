"""Do two expressions say the same? Math-Verify's comparison, less what it wrongly accepts.

Math-Verify's `verify` calls numbers equal that differ by less than a millionth, however small they are, and takes the
right side of any equation for an answer. What it accepts must also pass the conditions here; what it refuses is
refused, but for a solved inequality, which says the same as an interval. The tests' table of known faults
(`test_known_faults.py`) has the reports behind each.
"""

import zlib
from typing import Any

import sympy
from latex2sympy2_extended.logic import And
from math_verify import verify
from math_verify.errors import TimeoutException
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

# Exact numbers are compared to sixty digits, those with a decimal point to four: 0.333333 is a third, to six decimals.
PRECISION_DIGITS = 60
EXACT_TOLERANCE = sympy.Rational(1, 10**50)
DECIMAL_TOLERANCE = sympy.Rational(1, 10**4)


def equal(gold: Any, prediction: Any) -> bool:
    """Whether a prediction says the same as the gold answer. What cannot be compared is not equal."""
    try:
        solved = isinstance(gold, sympy.Set) and _is_solved(prediction)
        if not verify(gold, prediction, timeout_seconds=None, allow_set_relation_comp=solved, raise_on_error=True):
            return False
        for side, other in ((gold, prediction), (prediction, gold)):
            if _is_equation(side) and not _is_equation(other) and not _names_its_right_side(side):
                return False
        if _is_equation(gold) and _is_equation(prediction) and _first_side(gold) != _first_side(prediction):
            return True
        return not _values_differ(_last_side(gold), _last_side(prediction))
    except MemoryError:
        raise
    except (Exception, TimeoutException):
        return False  # two things that cannot be compared, such as a set and a matrix


def _relations(expression: Any) -> list[Any]:
    return list(expression._unsorted_args) if isinstance(expression, And) else [expression]


def _is_equation(expression: Any) -> bool:
    return all(isinstance(relation, sympy.Eq) for relation in _relations(expression))


def _first_side(equation: Any) -> Any:
    return _relations(equation)[0].lhs


def _last_side(expression: Any) -> Any:
    return _relations(expression)[-1].rhs if _is_equation(expression) else expression


def _names_its_right_side(equation: Any) -> bool:
    """`x = 5`, `f(2) = 5`, `m+n = 5`, `(x, y) = (1, 2)` and `1+4 = 5`; not `2x = 5`, `3 = 5` or `x = 5 = 6`."""
    first, *_ = relations = _relations(equation)
    *members, last = [first.lhs, *(relation.rhs for relation in relations)]
    if _is_name(members[0]):
        del members[0]
    return not any(_values_differ(member, last, or_unknown=True) for member in members)


def _is_name(expression: Any) -> bool:
    """Symbols, products, quotients and sums of them, and functions of anything: what a problem may ask for."""
    if isinstance(expression, sympy.Pow):
        return expression.exp == -1 and _is_name(expression.base)
    if isinstance(expression, sympy.Add | sympy.Mul | sympy.Tuple):
        return all(map(_is_name, expression.args))
    return isinstance(expression, sympy.Symbol | AppliedUndef) or (
        isinstance(expression, sympy.Function) and bool(expression.free_symbols)
    )


def _is_solved(expression: Any) -> bool:
    """`x > 1` or `0 < x < 1`: a letter between numbers, not inequalities still to be solved."""
    return all(
        isinstance(relation, Relational)
        and not isinstance(relation, sympy.Eq)
        and all(isinstance(side, sympy.Symbol) or not side.free_symbols for side in relation.args)
        for relation in _relations(expression)
    )


def _values_differ(one: Any, other: Any, or_unknown: bool = False) -> bool:
    """Whether two formulas, or lists, sets or intervals of them, differ for some values of their letters."""
    ones, others = _members(one), _members(other)
    if ones is not None and others is not None and len(ones) == len(others):
        return any(_values_differ(*pair, or_unknown) for pair in zip(ones, others, strict=True))
    first, second = _value(one), _value(other)
    if first is None or second is None:
        return or_unknown and one != other
    has_decimals = one.has(sympy.Float) or other.has(sympy.Float)
    difference = abs(first - second)
    if has_decimals:
        return bool(difference > DECIMAL_TOLERANCE * max(abs(first), abs(second)))
    return bool(difference > EXACT_TOLERANCE * max(abs(first), abs(second)))


def _members(expression: Any) -> list[Any] | None:
    """What a list, an interval or a set of numbers holds, a set in the order of its numbers."""
    if isinstance(expression, sympy.Interval):
        return [expression.start, expression.end]
    if isinstance(expression, sympy.Tuple):
        return list(expression.args)
    if isinstance(expression, sympy.FiniteSet) and all(member.is_number and member.is_real for member in expression):
        return sorted(expression.args, key=lambda member: member.evalf(PRECISION_DIGITS))
    return None


def _value(expression: Any) -> Any:
    """A formula's value, its letters standing for some numbers that depend on nothing but the letters; None if none."""
    if not isinstance(expression, sympy.Expr) or isinstance(expression, sympy.Symbol):
        return None
    if expression.has(sympy.UnevaluatedExpr):
        return None  # a percentage: 50% is 50 to many a gold answer
    letters = {letter: _number_of(letter.name) for letter in expression.free_symbols}
    # Not put in exactly: 2^(n^20) has millions of digits where n is no more than 2.
    digits = PRECISION_DIGITS + 10
    value = expression.evalf(digits, subs=letters) if letters else expression.doit().evalf(digits)
    return value if value.is_number and value.is_finite else None


def _number_of(name: str) -> Any:
    return sympy.Rational(100 + zlib.crc32(name.encode()) % 97, 83)
