r"""Conversion of LaTeX to expressions that evaluates nothing too large.

latex2sympy leaves most of a formula unevaluated, but it computes some commands while it parses: binomials, Gamma, gcd,
intervals (it compares their ends), roots and matrix functions. So each part is checked as soon as it is converted,
before it is used. Functions that grow fast on small arguments have further bounds.

Math-Verify parses all LaTeX through one function of its parser module, and all plain arithmetic through another.
`install` replaces both with the functions of this module.
"""

from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from math_verify import parser
from math_verify.grader import should_treat_as_complex

from ossft_ray.verification.mathematics.complexity import TooComplex, check_expression, check_text, is_small

_parse_arithmetic = parser.parse_expr_cached  # Math-Verify's own, which `install` replaces

MAX_FACTORIAL = 3000  # the n of Gamma(n) and of a binomial
MAX_SYMBOLIC_BINOMIAL = 10  # the k of "n over k" if n has letters, because it is expanded

# These make large matrices from small numbers, or run forever on small matrices. No answer is a command to compute.
_COMPUTATIONS = {
    *("eye", "zeros", "ones", "diag", "hstack", "vstack", "rref", "nullspace", "svd", "SVD"),
    *("orth", "ortho", "orthogonal", "orthogonalize", "eig", "eigen", "diagonalize"),
    *("eigenvals", "eigenvalues", "eigenvects", "eigenvectors"),
}


class _CheckedConverter(_Latex2Sympy):
    """The converter of latex2sympy, from parse trees to expressions, with a check of every part."""

    def convert_expr(self, expr: Any) -> Any:
        return check_expression(super().convert_expr(expr))

    def convert_func_arg(self, arg: Any) -> Any:
        converted = check_expression(super().convert_func_arg(arg))
        name = arg.parentCtx.func_normal_single_arg().start.text
        if name in (r"\Gamma", r"\gamma") and not is_small(converted, MAX_FACTORIAL):
            raise TooComplex
        return converted

    def convert_func(self, func: Any) -> Any:
        for kind in (func.func_normal_single_arg(), func.func_normal_multi_arg()):
            operator = kind and kind.func_operator_name
            if operator and operator.getText() in _COMPUTATIONS:
                raise ValueError(f"{operator.getText()} is a computation, not an answer")
        return super().convert_func(func)

    def convert_matrix(self, matrix: Any) -> Any:
        return check_expression(super().convert_matrix(matrix))  # before its determinant is computed

    def convert_binom(self, binom: Any) -> Any:
        top, bottom = self.convert_expr(binom.upper), self.convert_expr(binom.lower)
        if not (is_small(top, MAX_FACTORIAL) and is_small(bottom, MAX_FACTORIAL)):
            raise TooComplex
        if top.free_symbols and not is_small(bottom, MAX_SYMBOLIC_BINOMIAL):
            raise TooComplex
        return sympy.binomial(top, bottom)

    def handle_gcd_lcm(self, f: str, args: list[Any]) -> Any:
        if not all(isinstance(arg, sympy.Integer) for arg in args):
            raise ValueError(f"{f} of something other than integers")
        return super().handle_gcd_lcm(f, args)

    def do_subs(self, expr: Any, at: Any) -> Any:
        raise ValueError("an expression with values to substitute is not an answer")


def install() -> None:
    """Make Math-Verify parse through this module, in this process."""
    parser.parse_latex_cached = read_latex
    parser.parse_expr_cached = read_arithmetic


def read_latex(latex: str) -> Any:
    """Convert normalised LaTeX to an expression; if that fails, convert the part after its last equals sign.

    Raises:
        TooComplex: the answer is too large to be evaluated or compared.
        Exception: the LaTeX does not parse.
    """
    check_text(latex)
    try:
        return _convert(latex)
    except Exception:
        last = parser.get_last_eq(latex)
        if last == latex:
            raise
        return _convert(last)


def read_arithmetic(text: str) -> Any:
    """Convert digits, operators and parentheses to an unevaluated expression.

    sympy's parser runs the text as Python, but Math-Verify passes only text without letters and quotes.

    Raises:
        TooComplex: the answer is too large to be evaluated or compared.
        Exception: the text does not parse.
    """
    check_text(text)
    return check_expression(_parse_arithmetic(text))


def _convert(latex: str) -> Any:
    config = ConversionConfig(lowercase_symbols=False)  # the radius R is not the radius r
    converter = _CheckedConverter(is_real=not should_treat_as_complex(latex), config=config)
    return check_expression(converter.parse(latex))
