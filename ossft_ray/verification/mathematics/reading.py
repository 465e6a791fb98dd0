r"""How does an answer's LaTeX become an expression, without evaluating what would explode?

latex2sympy leaves most of a formula unevaluated, but some commands it carries out while it parses: binomials, Gamma,
gcd, intervals (it compares their ends), roots, matrix functions. So every part is screened as soon as it is
converted, before anything is done with it; what makes much of small arguments has bounds of its own.

Math-Verify parses all LaTeX through one function of its parser module, and all plain arithmetic through another.
`install` puts the screened ones of this module in their places.
"""

from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from math_verify import parser
from math_verify.grader import should_treat_as_complex

from ossft_ray.verification.mathematics.complexity import TooComplex, bounded, screen_expression, screen_text

MAX_FACTORIAL = 3000  # n of Gamma(n) and of a binomial
MAX_SYMBOLIC_BINOMIAL = 10  # k of n over k with letters in n: it is multiplied out

# They make large matrices of small numbers, or run for ever on small matrices. No answer is a command to compute.
_COMPUTATIONS = {
    *("eye", "zeros", "ones", "diag", "hstack", "vstack", "rref", "nullspace", "svd", "SVD"),
    *("orth", "ortho", "orthogonal", "orthogonalize", "eig", "eigen", "diagonalize"),
    *("eigenvals", "eigenvalues", "eigenvects", "eigenvectors"),
}


class _ScreenedConverter(_Latex2Sympy):
    """latex2sympy's converter; parse trees come in, screened expressions go out."""

    def convert_expr(self, expr: Any) -> Any:
        return _screened(super().convert_expr(expr))

    def convert_func_arg(self, arg: Any) -> Any:
        converted = _screened(super().convert_func_arg(arg))
        name = arg.parentCtx.func_normal_single_arg().start.text
        if name in (r"\Gamma", r"\gamma") and not _is_small_or_symbolic(converted, MAX_FACTORIAL):
            raise TooComplex
        return converted

    def convert_func(self, func: Any) -> Any:
        for kind in (func.func_normal_single_arg(), func.func_normal_multi_arg()):
            operator = kind and kind.func_operator_name
            if operator and operator.getText() in _COMPUTATIONS:
                raise ValueError(f"{operator.getText()} is a computation, no answer")
        return super().convert_func(func)

    def convert_matrix(self, matrix: Any) -> Any:
        return _screened(super().convert_matrix(matrix))  # its determinant may be next

    def convert_binom(self, binom: Any) -> Any:
        top, bottom = self.convert_expr(binom.upper), self.convert_expr(binom.lower)
        if not (_is_small_or_symbolic(top, MAX_FACTORIAL) and _is_small_or_symbolic(bottom, MAX_FACTORIAL)):
            raise TooComplex
        if top.free_symbols and not _is_small_or_symbolic(bottom, MAX_SYMBOLIC_BINOMIAL):
            raise TooComplex
        return sympy.binomial(top, bottom)

    def handle_gcd_lcm(self, f: str, args: list[Any]) -> Any:
        if not all(isinstance(arg, sympy.Integer) for arg in args):
            raise ValueError(f"{f} of what is no integer")
        return super().handle_gcd_lcm(f, args)

    def do_subs(self, expr: Any, at: Any) -> Any:
        raise ValueError("an expression with values still to be put in is no answer")


def install() -> None:
    """Let Math-Verify parse through this module, in this process."""
    parser.parse_latex_cached = read_latex
    parser.parse_expr_cached = read_arithmetic


def read_latex(latex: str) -> Any:
    """Normalised LaTeX as an expression; where it does not parse, what stands after its last equals sign.

    Raises:
        TooComplex: it is too large to be evaluated or compared.
        Exception: it does not parse.
    """
    screen_text(latex)
    try:
        return _convert(latex)
    except Exception:
        last = parser.get_last_eq(latex)
        if last == latex:
            raise
        return _convert(last)


def read_arithmetic(text: str) -> Any:
    """Digits, operators and parentheses as an expression, unevaluated.

    sympy's parser runs the text as Python, but Math-Verify's pattern lets no letter through, nor a quote.

    Raises:
        TooComplex: it is too large to be evaluated or compared.
        Exception: it does not parse.
    """
    screen_text(text)
    return _screened(_parse_arithmetic(text))


def _convert(latex: str) -> Any:
    # The radius R is not the radius r.
    config = ConversionConfig(lowercase_symbols=False)
    converter = _ScreenedConverter(is_real=not should_treat_as_complex(latex), config=config)
    return _screened(converter.parse(latex))


def _screened(expression: Any) -> Any:
    screen_expression(expression)
    return expression


def _is_small_or_symbolic(expression: Any, largest: float) -> bool:
    return bool(expression.free_symbols) or bounded(expression, largest)


_parse_arithmetic = parser.parse_expr_cached
