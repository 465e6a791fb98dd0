r"""Model outputs that try to hang, crash, exhaust or take over their grader: one bomb per row.

`EXPRESSIONS` are answers. The tests put each into a box and compare it with several gold answers, and use it as a gold
answer. `RESPONSES` are whole texts. Each row has the reason of the expected verdict. `HARD` answers look harmless, but
exceed a limit of the pool when they are compared with the given gold answer.
"""

import itertools
from typing import NamedTuple

COMPLEX, WRONG, UNPARSED, NO_ANSWER = "too_complex", "wrong", "unparsed", "no_answer"
CANARY = "ossft_canary"  # a bomb that runs as Python creates a file of this name in the working directory


class Expression(NamedTuple):
    """The answer `latex`, and the reason against the gold answer 5."""

    name: str
    latex: str
    reason: str = COMPLEX


class Response(NamedTuple):
    name: str
    text: str
    reason: str


class Hard(NamedTuple):
    """An answer that looks ordinary, the gold answer that makes it hard, and the limit that it exceeds."""

    name: str
    gold: str
    latex: str
    reason: str


def nested(opening: str, closing: str, depth: int = 10_000) -> str:
    return f"{opening * depth}5{closing * depth}"


def code_without_parentheses(source: str) -> str:
    r"""Python code that runs `source` without a parenthesis, a quote, a space or a capital letter.

    `\text{...}` removes those. The code turns item access into calls: of `chr` to spell the source, then of `eval`.
    """
    call = "poly1d.__class_getitem__"
    spelled = "+".join(f"poly1d[{ord(character)}]" for character in source)
    return (
        f"[1for[{call}]in[[builtins.chr]]for[s]in[[{spelled}]]for[{call}]in[[builtins.eval]]for[r]in[[poly1d[s]]]][0]"
    )


MAKE_CANARY = f"open('{CANARY}','w')"
# sympy sums this series numerically with a function that it writes as Python source, including the symbols' names.
NAMES_THAT_RUN = rf"\sum_{{n=0}}^{{\infty}} \frac{{\text{{{code_without_parentheses(MAKE_CANARY)}}} n+1}}{{n!}}"

EXPRESSIONS = [
    # Numbers that explode
    Expression("tower of powers", "9^{9^{9^9}}"),
    Expression("tower in Python's notation", "9**9**9**9", UNPARSED),
    Expression("small tower", "9^{9^{9}}"),
    Expression("tower of a hundred", "2^{" * 100 + "2" + "}" * 100),
    Expression("tower with letters", "x^{9^{9^9}}"),
    Expression("negative tower", "2^{-9^{9^9}}"),
    Expression("tower of products", r"(9 \cdot 9^{9 \cdot 9^{9 \cdot 9}})"),
    Expression("tower of fractions", r"\left(\frac{9}{8}\right)^{\left(\frac{99}{8}\right)^{99}}"),
    Expression("tower of decimals", "1.5^{99.5^{99.5}}"),
    Expression("tower of roots", r"\sqrt{9^{9^{9^9}}}"),
    Expression("tower of percent", r"9^{9^{9^{9\%}}}"),
    Expression("root of a tower", r"\sqrt[9^{9^{9}}]{2}"),
    Expression("root of order 10^9", r"\sqrt[1000000000]{2} + 1"),
    Expression("sine of a tower", r"\sin(9^{9^{9^9}})"),
    Expression("logarithm of a tower", r"\log_{2}(2^{2^{2^{2^{2^2}}}})"),
    Expression("exponential tower", "e^{e^{e^{e^{99}}}}"),
    Expression("exponential of a tower", r"\exp(9^{9^{9}})"),
    Expression("hyperbolic sine of 10^12", r"\sinh(1000000000000)"),
    Expression(  # huggingface/Math-Verify#65: hangs despite its timeout
        "tower from a report", r"\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}"
    ),
    Expression(  # huggingface/Math-Verify#59
        "power of a tower and a logarithm", r"10^{(5^{5^{5^{5^{5}}} \cdot \log_{10}(5)} - 4)}"
    ),
    Expression("tower of years", "2003^{2002^{2001}}"),  # pytorch/torchtitan#4442
    Expression(  # huggingface/Math-Verify#63: takes all memory
        "logarithms of logarithms", r"\log_{2^5}(\log_{2^4}(\log_{2^3}(\log_{2^2}(\log_{2^1}x))))", WRONG
    ),
    Expression("factorial of 10^7", "10000000!"),
    Expression("factorial of factorials", "(((9!)!)!)!"),
    Expression("factorials in a row", "9" + "!" * 1000),
    Expression("quotient of factorials", r"\frac{100000000!}{99999999!}"),
    Expression("Gamma of 10^9", r"\Gamma(1000000000)"),
    Expression("Gamma of Gammas", r"\Gamma(\Gamma(\Gamma(20)))"),
    Expression("binomial of 10^9", r"\binom{1000000000}{500000000}"),
    Expression("binomial of powers", r"\binom{10^{99}}{10^{50}}"),
    Expression("binomial of letters", r"\binom{x+y}{1000000}"),
    Expression("binomial of binomials", r"\binom{\binom{\binom{40}{20}}{20}}{20}"),
    Expression("choose", r"{1000000000 \choose 500000000}"),
    Expression("permutations", r"(1000000000)_{500000000}"),
    Expression("gcd of towers", r"\gcd(9^{9^{9}}, 6^{6^{6^6}})"),
    Expression("gcd of polynomials", r"\gcd(x^{1000000}-1, x^{999999}-1)"),
    Expression("lcm of many", r"\operatorname{lcm}(" + ",".join(str(n) for n in range(1000, 1200)) + ")", UNPARSED),
    Expression("modulus of a tower", r"9^{9^{9^9}} \mod 10"),
    Expression("floor of a tower", r"\lfloor 9^{9^{9^9}} / 7 \rfloor"),
    Expression("absolute value of a tower", "|9^{9^{9^9}}-1|"),
    Expression("million digits", "7" * 1_000_000),
    Expression("thousand digits", "7" * 1000),
    Expression("million decimals", "0." + "3" * 1_000_000),
    Expression("million digits with commas", "1" + ",000" * 300_000),
    Expression("million zeros before 5", "0" * 1_000_000 + "5"),
    Expression("exponent notation", "1E1000000000"),
    Expression("exponent notation, tiny", "1E-1000000000"),
    Expression("exponent notation, small letter", "1e1000000000"),
    Expression("exponent notation in a power", "2^{9E99}"),
    Expression("hexadecimal", "0x" + "f" * 50, WRONG),
    # Nesting and repetition
    Expression("braces", nested("{", "}")),
    Expression("parentheses", nested("(", ")")),
    Expression("brackets", nested("[", "]")),
    Expression("visible braces", nested(r"\{", r"\}")),
    Expression("left and right", nested(r"\left(", r"\right)")),
    Expression("absolute values", nested("|", "|")),
    Expression("floors", nested(r"\lfloor ", r"\rfloor ")),
    Expression("fractions", nested(r"\frac{1}{", "}")),
    Expression("continued fraction", nested(r"1+\frac{1}{", "}")),
    Expression("roots", nested(r"\sqrt{", "}")),
    Expression("roots without braces", r"\sqrt" * 10_000 + "5"),
    Expression("boxes", nested(r"\boxed{", "}")),
    Expression("texts", nested(r"\text{", "}")),
    Expression("functions", nested(r"\sin(", ")")),
    Expression("subscripts", "x" + "_{x" * 10_000 + "}" * 10_000),
    Expression("thirty braces", nested("{", "}", 30)),
    Expression("thirty tuples", nested("(1,", ")", 30)),
    Expression("thirty powers", "x^{" * 30 + "5" + "}" * 30),
    Expression("mixed brackets", "([" * 15 + "5" + "])" * 15),
    Expression("signs", "-" * 10_000 + "5"),
    Expression("primes", "f" + "'" * 10_000),
    Expression("fractions without braces", r"\frac" * 300 + "12"),
    Expression("sum of ten thousand ones", "1" + "+1" * 10_000),
    Expression("sum of seven hundred letters", "x" + "+x" * 700, WRONG),
    Expression("product of seven hundred letters", "xy" * 700, WRONG),
    Expression("quotients in a row", "1" + "/7" * 500, UNPARSED),
    Expression("commas", "," * 10_000),
    Expression("ten thousand items", ",".join(["1"] * 10_000)),
    Expression("seven hundred items", ",".join(["1"] * 700)),
    Expression("equals signs", "x" + "=5" * 10_000),
    Expression("fifty equals signs", "x" + "=5" * 50),
    Expression("relations", "1" + "<x" * 50),
    Expression("plus or minus", r"\pm " * 300 + "5", UNPARSED),
    Expression("backslashes", "\\" * 999_998),
    Expression("percent signs", "5" + r"\%" * 10_000),
    Expression("a hundred percent signs", "5" + r"\%" * 100, WRONG),
    Expression("units", "5" + r"\text{ cm}" * 10_000),
    Expression("a hundred units", "5" + r"\text{ cm}" * 100, "correct"),
    # Polynomials, matrices, series, sets
    Expression("polynomial of degree 10^5", "(x+1)^{100000}"),
    Expression("polynomial of many letters", "(a+b+c+d+f+g+h)^{60}"),
    Expression("product of polynomials", "(a+b+c+d)^{20}(x+y+z+w)^{20}"),
    Expression("power of a billion", "x^{1000000000}-1"),
    Expression("large matrix", r"\begin{pmatrix}" + r"\\".join(["&".join("1" * 50)] * 50) + r"\end{pmatrix}"),
    Expression(
        "determinant of letters",
        r"\begin{vmatrix}"
        + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(6)) for i in range(6))
        + r"\end{vmatrix}",
    ),
    Expression("power of a matrix", r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{1000000000}"),
    Expression("identity matrix of 10^9", r"\operatorname{eye}(1000000000)", UNPARSED),
    Expression("zeros", r"\operatorname{zeros}(100000,100000)", UNPARSED),
    Expression("eigenvalues", r"\operatorname{eigenvals}(\begin{pmatrix}a&b&c\\d&f&g\\h&k&l\end{pmatrix})", UNPARSED),
    Expression("sum of 10^9 terms", r"\sum_{k=1}^{1000000000} \frac{1}{k^2+1}"),
    Expression("sums in sums", r"\sum_{i=1}^{999} \sum_{j=1}^{999} \sum_{k=1}^{999} \frac{1}{i+j+k}"),
    Expression("sum of towers", r"\sum_{k=1}^{9} 9^{9^{k}}"),
    Expression("product of 10^9 terms", r"\prod_{k=1}^{1000000000} (k^2+1)"),
    Expression("product of factorials", r"\prod_{k=1}^{900} k!"),
    Expression("integral", r"\int_0^1 \frac{\sin(x^x)}{1+e^{\cos x}} dx"),
    Expression("integrals in integrals", r"\int_0^1 \int_0^x \int_0^y \sin(xyz) dz dy dx"),
    Expression("limit", r"\lim_{x \to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^{97}}"),
    Expression("derivative of a tower", r"\frac{d}{dx} x^{9^{9^9}}"),
    Expression("substitution", r"\left. x^{9^{9}} \right|_{x=9}", UNPARSED),
    Expression("interval of towers", "(9^{9^{9^9}}, 8^{8^{8^8}})"),
    Expression("set of towers", r"\{9^{9^{9^9}}, 8^{8^{8^8}}, 7^{7^{7^7}}\}"),
    Expression("unions", r"\cup".join(f"[{n},{n + 1}]" for n in range(0, 400, 2))),
    Expression("equation of towers", "x^{9^{9^9}} = 9^{9^{9^9}}"),
    Expression("inequalities of towers", "9^{9^{9}} < x < 9^{9^{9^9}}"),
    # Python code
    Expression("names that run", NAMES_THAT_RUN, UNPARSED),
    Expression("names that run, in a gcd", rf"\gcd({NAMES_THAT_RUN}, 2)", UNPARSED),
    Expression("names that run, in a list", rf"1, {NAMES_THAT_RUN}, 2", WRONG),
    Expression("names that run, in an interval", rf"[1, {NAMES_THAT_RUN})", UNPARSED),
    Expression("names that run, in an equation", rf"x = {NAMES_THAT_RUN}", UNPARSED),
    Expression("names that run, in a function", rf"f({NAMES_THAT_RUN})", UNPARSED),
    Expression("call", f"__import__('os').system('touch {CANARY}')", UNPARSED),
    Expression("call in text", rf"\text{{__import__('os').system('touch {CANARY}')}}", WRONG),
    Expression("call in upright letters", rf"\mathrm{{__import__('os').system('touch {CANARY}')}} + 1", WRONG),
    Expression("call as a function's name", rf"\text{{{MAKE_CANARY}}}(5)", WRONG),
    Expression("call as an operator", rf"\operatorname{{{MAKE_CANARY}}}(5)", UNPARSED),
    Expression("call as a subscript", rf"x_{{\text{{{MAKE_CANARY}}}}}+1", UNPARSED),
    Expression("call as a variable", rf"\variable{{{MAKE_CANARY}}}+1", UNPARSED),
    Expression("eval", f'eval("{MAKE_CANARY}")', UNPARSED),
    Expression("lambda", f"(lambda: {MAKE_CANARY})()", UNPARSED),
    Expression("f-string", f'f"{{{MAKE_CANARY}}}"', UNPARSED),
    Expression("attributes", r"5.__class__.__base__.__subclasses__()", UNPARSED),
    Expression("sympify", rf'S("{MAKE_CANARY}")', UNPARSED),
    Expression("sympy's names", r"\text{preview}(x) + \text{Integer}(5) + \text{lambdify}(x)", UNPARSED),
    Expression("mpmath's names", r"\text{runtests}(5) + \text{nprint}(5)", UNPARSED),
    Expression("format string", "%s%s%n{0.__class__}{}", UNPARSED),
    # Characters
    Expression("NUL", "\0" * 100, UNPARSED),
    Expression("control characters", "".join(map(chr, range(32))) + "5", UNPARSED),
    Expression("right to left", "\u202e5\u202c", "correct"),
    Expression("zero width", "\u200b5\u200d\ufeff", "correct"),
    Expression("combining marks", "5" + "\u0301" * 1000, UNPARSED),
    Expression("full-width digits", "\uff15", "correct"),
    Expression("Arabic digits", "\u0665", "correct"),
    Expression("superscript digits", "9\u2079", WRONG),
    Expression("half of a surrogate pair", "\ud835", UNPARSED),
    Expression("not a character", "\uffff\U0010ffff", UNPARSED),
    Expression("emoji", "\U0001f4a3" * 300, UNPARSED),
    # Broken LaTeX
    Expression("operators only", "+-*/^_", UNPARSED),
    Expression("unfinished environment", r"\begin{pmatrix} 1 & 2 \\", UNPARSED),
    Expression("unfinished fraction", r"\frac{1}", UNPARSED),
    Expression("unfinished root", r"\sqrt", UNPARSED),
    Expression("environments", r"\begin{matrix}" * 10_000),
    Expression("division by zero", r"\frac{5}{0}", WRONG),
    Expression("zero to the minus one", "0^{-1}", WRONG),
    Expression("infinity minus infinity", r"\infty - \infty", WRONG),
    Expression("not a number", r"\frac{0}{0}", WRONG),
]

MEGABYTE = 1_000_000
RESPONSES = [
    Response("nothing", "", NO_ANSWER),
    Response("white space", " \n\t" * MEGABYTE, NO_ANSWER),
    Response("megabytes without white space", "a" * 5 * MEGABYTE, NO_ANSWER),
    Response("megabytes of words", "so we go on " * 400_000, NO_ANSWER),
    Response("megabyte of digits", "5" * MEGABYTE, NO_ANSWER),
    Response("dollars", "$" * MEGABYTE, NO_ANSWER),
    Response("megabyte of backslashes", "\\" * MEGABYTE, NO_ANSWER),
    Response("open braces", "{" * MEGABYTE, NO_ANSWER),
    Response("open boxes", r"\boxed{" * 100_000, NO_ANSWER),
    Response("open boxes and a complete one", r"\boxed{" * 100_000 + "5}", "correct"),
    Response("empty boxes", r"\boxed{}" * 100_000, NO_ANSWER),
    Response("blank boxes", r"\boxed{ \ }" * 100_000, UNPARSED),
    Response("thousands of boxes", "".join(rf"\boxed{{{n}}}" for n in range(50_000)), WRONG),
    Response("boxes in boxes", r"\boxed{" * 50_000 + "5" + "}" * 50_000, COMPLEX),
    Response("box of a megabyte", rf"\boxed{{{'word ' * 200_000}}}", COMPLEX),
    Response("box of white space and 5", rf"\boxed{{{' ' * MEGABYTE}5{' ' * MEGABYTE}}}", "correct"),
    Response("closing braces", "}" * MEGABYTE + r"\boxed{5}", "correct"),
    Response("announcements", "the answer is " * 70_000, NO_ANSWER),
    Response("announcements of dollars", "the final answer is $" * 50_000, UNPARSED),
    Response("announcements of boxes", r"the final answer is \boxed{" * 40_000, UNPARSED),
    Response("announced tower", "The final answer is 9^9^9^9.", WRONG),
    Response("announced tower in Python's notation", "The final answer is 9**9**9**9.", UNPARSED),
    Response("announced tower in LaTeX", "The answer is $9^{9^{9^9}}$.", COMPLEX),
    Response("announced parentheses", f"The answer is {'(' * 150}5{')' * 150}.", COMPLEX),
    Response("announced digits", f"The answer is {'7' * 5000}.", NO_ANSWER),
    Response("announced signs", f"The answer is 5{'-' * 300}5.", COMPLEX),
    Response("announced call", f"The final answer is 5*({MAKE_CANARY}).", UNPARSED),
    Response("announced attribute", f"The answer is 5 .__class__.__base__ or {MAKE_CANARY}.", WRONG),
    Response("announced names that run", rf"The answer is $x + {NAMES_THAT_RUN}$.", NO_ANSWER),
    Response("announced in Arabic digits", "The answer is \u0665+\u0665.", WRONG),
    Response("announced hexadecimal", "The answer is 0x5**0x9.", WRONG),
    Response("search for I hope", "final answer is $" + "$,$" * 120 + "I hop", WRONG),
    Response("search for an end", "answer:" + r"\[" * 180, UNPARSED),
    Response("search for numbers", "answer " + "1 000" * 78, NO_ANSWER),
    Response("search for an operator", "answer " + "1." * 190, NO_ANSWER),
    Response("tails", "#### " * 200_000, NO_ANSWER),
    Response("long tail", "#### " + "7" * MEGABYTE, COMPLEX),
    Response("tail of a tower", "#### 9^{9^{9^9}}", COMPLEX),
    Response("tail of hashes", "#" * MEGABYTE, NO_ANSWER),
    Response("thoughts", "<think>" * 100_000 + r"\boxed{5}", NO_ANSWER),
    Response("thoughts that end", "</think>" * 100_000 + r"\boxed{5}", "correct"),
    Response("lone surrogates", "\udc80\ud800" * 100_000, NO_ANSWER),
    Response("zero-width characters", "\u200b" * MEGABYTE + r"\boxed{5}", "correct"),
    Response("right-to-left box", "\u202e}5{dexob\\", NO_ANSWER),
    Response("homoglyph of a box", "\\b\u043exed{5}", NO_ANSWER),
    Response("NUL in the command", "\\box\0ed{5}", NO_ANSWER),
    Response("texts that are not closed", r"\boxed{" + r"\text" * 100_000 + "}", COMPLEX),
]

_LETTERS = "abcdfghklmnpqrstuvw"
TIMEOUT, MEMORY = "timeout", "memory"
HARD = [
    Hard("union against a formula", r"\sqrt{2}+x", r"\cup".join(f"[{n},{n + 1}]" for n in range(0, 40, 2)), TIMEOUT),
    Hard("series without a sum", "5", r"\sum_{n=1}^{\infty} \frac{\sin(n^2)}{n^2+1}", TIMEOUT),
    Hard(
        "common denominator of many letters",
        "5",
        "+".join(rf"\frac{{1}}{{{a}+{b}}}" for a, b in itertools.pairwise(_LETTERS)),
        TIMEOUT,
    ),
    Hard("unsolvable equation", "x^2 = 4", r"x^5 \sin(x)+e^x = \tan(x)+x", TIMEOUT),
    Hard("as much text as memory", "5", "5" + " " * 40 * MEGABYTE, MEMORY),
    Hard("a million boxes", "5", "5}" + r"\boxed{5}" * 1_000_000 + "{", MEMORY),
    Hard("two million open boxes", "5", "5}" + r"\boxed{" * 2_000_000 + "}", MEMORY),
]
