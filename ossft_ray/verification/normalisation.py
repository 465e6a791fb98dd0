r"""One form for the many ways to write the same characters and the same markup, applied before any kind compares.

`plain_characters` serves all kinds: compatibility forms (NFKC), digits of any script, dashes, punctuation of Chinese
and Japanese, invisible characters. `latex_of` serves the mathematical kinds: it also turns symbols (`½`, `√2`, `x²`,
`∞`) into LaTeX, and removes what only formats: delimiters of formulas, bold, fonts, colours, spacing commands, and
punctuation at the end. An amount of money keeps one sign, `\$`, `\text{€}` and so on.
"""

import re
import unicodedata

_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣－"), "-")
_PUNCTUATION = {
    **dict.fromkeys(map(ord, "。．｡"), ". "),
    **dict.fromkeys(map(ord, "、､"), ", "),
    ord("“"): '"',
    ord("”"): '"',
    ord("‘"): "'",
    ord("’"): "'",
    ord("′"): "'",
    ord("″"): "''",
    ord("【"): "[",
    ord("】"): "]",
    ord("〔"): "(",
    ord("〕"): ")",
}
_RANGE = re.compile(r"(?<=\d)\s*[–—〜～]\s*(?=\d)")  # 5–7 is not a difference
_FULL_WIDTH_STOP = re.compile(r"(?<=\d)．(?=\d)")

_SYMBOLS = {
    "∞": r"\infty",
    "√": r"\sqrt",
    "∛": r"\sqrt[3]",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "⋅": r"\cdot",
    "∙": r"\cdot",
    "±": r"\pm",
    "∓": r"\mp",
    "≤": r"\le",
    "⩽": r"\le",
    "≦": r"\le",
    "≥": r"\ge",
    "⩾": r"\ge",
    "≧": r"\ge",
    "≠": r"\ne",
    "≈": r"\approx",
    "≅": r"\cong",
    "≡": r"\equiv",
    "∈": r"\in",
    "∉": r"\notin",
    "∪": r"\cup",
    "∩": r"\cap",
    "∅": r"\emptyset",
    "⊂": r"\subset",
    "⊆": r"\subseteq",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "→": r"\to",
    "∧": r"\land",
    "∨": r"\lor",
    "∠": r"\angle",
    "△": r"\triangle",
    "⊥": r"\perp",
    "∥": r"\parallel",
    "…": r"\ldots",
    "∑": r"\sum",
    "∏": r"\prod",
    "∫": r"\int",
    "∂": r"\partial",
    "∣": r"\mid",
    "°": r"^\circ",
    "º": r"^\circ",
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    "Ω": r"\Omega",
    "µ": r"\mu",
    "∀": r"\forall",
    "∃": r"\exists",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "⌈": r"\lceil",
    "⌉": r"\rceil",
    "∖": r"\setminus",
    "⁄": "/",
    "∶": ":",
}
_RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_ROOT = re.compile(r"(\\sqrt(?:\[3\])?)\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])|\\[a-z]+))")
_LETTER_NAME = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)( SYMBOL)?")

_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]*\|>|</?s>|<(?:end_of_turn|eos|pad)>|</answer>")
_CURRENCY_SIGN = r"[€£¥₹₩₽]"
_SIGNS = {"€": "euro", "£": "pound_sterling", "¥": "yuan", "₹": "rupee", "₩": "won", "₽": "ruble"}
_MONEY = re.compile(r"\$\s*\d[\d,.]*(?:\{,\}\d+|\s*(?:\Z|[.,;)]|[A-Za-z]{2,})|\s+[A-Za-z])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_WRITTEN_DOLLAR = re.compile(
    r"\\text(?:rm|bf)?\s*\{\s*\\?(?:US)?\\?\$\s*\}|\\text(?:dollar|dollarsign)\b|\\mathdollar\b|\bUS\s*\\?\$(?=\s*\d)"
)
_OTHER_SIGN = re.compile(
    rf"\\text(?:rm)?\s*\{{\s*({_CURRENCY_SIGN})\s*\}}|({_CURRENCY_SIGN})|\\pounds?\b|\\euro\b|\\yen\b"
)
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|bf|rm|it|bfseries|tiny|small|normalsize|large|Large|LARGE|huge|Huge"
    r"|limits|nolimits|left|right|[bB]igg?[lrm]?)(?![A-Za-z])|\\color\s*\{[^{}]*\}|\\(?:phantom|label|tag\*?)\s*\{[^{}]*\}"
)
_BOLD_MATH = re.compile(r"\\(?:mathbf|boldsymbol|bm|pmb)\s*\{([^{}]*)\}|\\(?:mathbf|boldsymbol|bm)\s*(\d)")
_WRAPPER = re.compile(
    r"\\(?:underline|uline|mathit|mathsf|mathnormal|textcolor\s*\{[^{}]*\}|underset\s*\{[^{}]*\})\s*\{"
)
_TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|md)?|mathrm|mbox|hbox|emph)\s*(?=\{)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|gather\*?|equation\*?|split)\}")
_DELIMITER = re.compile(r"(?<!\\)\\[\[\]()]")
_MARKDOWN = re.compile(r"(?<![\w)*])(\*{1,3}|`+)(?=\S)|(?<=\S)(\*{1,3}|`+)(?![\w(*])")
_SPACING = re.compile(r"(?<!\\)\\(?:(?:q?quad|thinspace|enspace)(?![A-Za-z])|hspace\s*\{[^{}]*\}|[,;:>! ])|~")
_THIN = re.compile(r"\\[,!:;]\s*(?=\d{3}(?!\d))|\{,\}\s*(?=\d{3})|,\s*\\[!,]\s*(?=\d{3})")
_GROUPS = re.compile(r"(?<![\d.,^_{])(\d{1,3})((?:[  _']\d{3})+)(?![\d\w])(?!\s*/)")
_POWER_IN_TEXT = re.compile(r"\\text\s*\{[^{}]*(?:\^\{-?\d\}[^{}]*)+\}")
_BRACED_MARK = re.compile(r"\{\s*([:.])\s*\}")
_NAME = re.compile(r"\\(?:varnothing)\b")
_END = re.compile(r"(?:\s|\\\\|\\$|[,;:]|(?<!\.)\.)+\Z")
_LEADING = re.compile(r"\A(?:\s|\\\\)+")


def plain_characters(text: str) -> str:
    """One form of each character, for texts in any script.

    >>> plain_characters("（１，２）")
    '(1,2)'
    """
    if text.isascii():
        return text
    text = _FULL_WIDTH_STOP.sub(".", text)
    text = _RAISED.sub(lambda match: "^" + match[0], text)  # x² is not x2
    text = unicodedata.normalize("NFKC", text.translate(_PUNCTUATION).translate(_DASHES)).replace("⁄", "/")
    return "".join(_plain(character) for character in text)


def latex_of(text: str) -> str:
    r"""An answer as LaTeX, without what only formats it.

    >>> latex_of("$x²$."), latex_of(r"\[ \textcolor{red}{5} \]"), latex_of("$9{,}500")
    ('x^{2}', '5', '\\$9,500')
    """
    text = _SPECIAL_TOKEN.sub("", text)
    if not text.isascii():
        text = _symbols(text)
    text = _WRITTEN_DOLLAR.sub(r"\\$", text)
    text = _OTHER_SIGN.sub(_currency, text)
    text = _without_dollars(text)
    text = _DELIMITER.sub(" ", text) if "\\" in text else text
    text = _MARKDOWN.sub("", text) if "*" in text or "`" in text else text
    text = _THIN.sub(lambda match: "" if match[0][:2] in (r"\,", r"\!", r"\:", r"\;") else ",", text)
    if "\\" in text or "~" in text or "{" in text:
        text = _ENVIRONMENT.sub(" ", text).replace("&=", "=") if r"\begin" in text else text
        text = _STYLE.sub("", text)
        text = _BOLD_MATH.sub(lambda match: (match[1] or match[2] or "").replace(" ", "").rstrip(".,"), text)
        text = _unwrap(text)
        text = _TEXT_COMMAND.sub(r"\\text", text)
        text = _POWER_IN_TEXT.sub(lambda match: match[0].replace("^{", "^").replace("}", "") + "}", text)
        text = _BRACED_MARK.sub(r"\1", text)
        text = _SPACING.sub(" ", text)
        text = _NAME.sub(r"\\emptyset", text)
    text = " ".join(text.split())
    text = _GROUPS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), text)
    return trim(text)


def trim(text: str) -> str:
    """Remove white space, line ends and punctuation around an answer, and braces or quotes around all of it."""
    for _ in range(4):
        before = text
        text = _END.sub("", _LEADING.sub("", text))
        if len(text) > 1 and (text[0], text[-1]) in (("{", "}"), ('"', '"'), ("'", "'"), ("“", "”")) and _is_pair(text):
            text = text[1:-1]
        if text == before:
            break
    return text


def _is_pair(text: str) -> bool:
    """Whether the first and the last character of a text belong together."""
    if text[0] != "{":
        return text[0] not in text[1:-1]
    depth = 0
    for index, character in enumerate(text):
        if character in "{}" and text[index - 1 : index] != "\\":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return index == len(text) - 1
    return False


def _plain(character: str) -> str:
    if character.isascii():
        return character
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width and directional marks
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return "" if "︀" <= character <= "️" else character  # variation selectors


def _symbols(text: str) -> str:
    text = _RANGE.sub(r" \\text{to} ", text)
    text = _RAISED.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]).replace("−", "-") + "}", text)
    text = _LOWERED.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]).replace("−", "-") + "}", text)
    text = _VULGAR.sub(_fraction, text)
    text = "".join(f" {_SYMBOLS[c]} " if c in _SYMBOLS else c for c in text) if set(text) & set(_SYMBOLS) else text
    text = text.replace(" ^\\circ", r"^\circ")
    text = plain_characters(text)
    text = "".join(map(_greek, text))
    return _ROOT.sub(lambda match: f"{match[1]}{{{match[2] or match[3]}}}", text)


def _fraction(match: re.Match[str]) -> str:
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _greek(character: str) -> str:
    if not "Ͱ" <= character <= "Ͽ":
        return character
    name = _LETTER_NAME.fullmatch(unicodedata.name(character, ""))
    if name is None or name[2] in ("OMICRON", "FINAL"):
        return character
    letter = name[2].lower().replace("lamda", "lambda")
    return rf" \{letter if name[1] == 'SMALL' else letter.capitalize()} "


def _currency(match: re.Match[str]) -> str:
    sign = match[1] or match[2]
    name = _SIGNS[sign] if sign else {"\\p": "pound_sterling", "\\e": "euro", "\\y": "yuan"}[match[0][:2]]
    return rf"\text{{ {name} }}"


def _without_dollars(text: str) -> str:
    """Remove the dollars that delimit formulas, and escape those that stand before an amount of money."""
    if "$" not in text:
        return text
    places = [match.start() for match in _DOLLAR.finditer(text)]
    money = {place for place in places if _MONEY.match(text, place)}
    if len(places) % 2 and not money:
        money = {place for place in places[-1:] if text[place + 1 : place + 2].isdigit()}
    elif len(places) % 2 == 0 and len(money) % 2:
        money = set()  # "$5 apples$" is one formula
    return (
        "".join(
            character if index not in places else r"\$" if index in money else " "
            for index, character in enumerate(text)
        )
        if places
        else text
    )


def _unwrap(text: str) -> str:
    r"""Replace `\underline{...}`, `\textcolor{red}{...}` by their contents in braces, which may nest."""
    return _WRAPPER.sub("{", text) if _WRAPPER.search(text) else text
