"""Units and currencies in the words after a value, and their conversion by pint.

A unit is a tuple of words in order, such as `("km", "/", "h")` or `("square", "meters")`. Currencies are units too, so
that 50 cents are half a dollar and a euro is not a dollar.
"""

import re
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

import pint

Words = tuple[str, ...]

_MAX_WORDS = 8  # of a unit
_MAX_CHARACTERS = 60
_CONTEXT = Context(prec=40)

CURRENCIES = {
    **dict.fromkeys(("$", "usd", "dollar", "dollars", "buck", "bucks", "美元"), "dollar"),
    **dict.fromkeys(("cent", "cents", "¢", "美分"), "cent"),
    **dict.fromkeys(("euro", "euros", "eur", "欧元"), "euro"),
    **dict.fromkeys(("pound_sterling", "gbp", "quid", "英镑"), "pound_sterling"),
    **dict.fromkeys(("penny", "pence", "pennies"), "penny"),
    **dict.fromkeys(("yuan", "rmb", "cny", "元", "块", "人民币", "yen", "jpy", "円", "日元"), "yuan"),  # ¥ is both
    **dict.fromkeys(("角",), "jiao"),
    **dict.fromkeys(("rs", "inr", "rupee", "rupees", "卢比"), "rupee"),
    **dict.fromkeys(("won", "krw"), "won"),
    **dict.fromkeys(("ruble", "rubles", "rub"), "ruble"),
}
_DEFINITIONS = (
    *(f"{name} = [{name}]" for name in ("dollar", "euro", "pound_sterling", "yuan", "rupee", "won", "ruble")),
    *("cent = 0.01 * dollar", "penny = 0.01 * pound_sterling", "jiao = 0.1 * yuan"),
)
_CHINESE = {
    "千米": "km",
    "公里": "km",
    "米": "m",
    "公尺": "m",
    "分米": "dm",
    "厘米": "cm",
    "公分": "cm",
    "毫米": "mm",
    "微米": "um",
    "英里": "mile",
    "千克": "kg",
    "公斤": "kg",
    "克": "g",
    "毫克": "mg",
    "吨": "tonne",
    "升": "liter",
    "毫升": "ml",
    "秒": "s",
    "分钟": "minute",
    "小时": "hour",
    "天": "day",
    "日": "day",
    "周": "week",
    "年": "year",
    "度": "degree",
    "公顷": "hectare",
    "牛": "newton",
    "牛顿": "newton",
    "焦": "joule",
    "焦耳": "joule",
    "瓦": "watt",
    "伏": "volt",
    "安": "ampere",
}
_CHINESE_POWERS = {"平方": "^2", "立方": "^3"}
_COUNTERS = set("个只人本张条头件名位支辆棵朵枚块次种份套间座颗粒题")
_SPELLINGS = {
    "kmh": "km/h",
    "kmph": "km/h",
    "hrs": "hour",
    "mins": "minute",
    "secs": "second",
    "yrs": "year",
    "in": "inch",
    "tons": "ton",
    "tonnes": "tonne",
}
_POWERS = {"square": "**2", "sq": "**2", "squared": "**2", "cubic": "**3", "cu": "**3", "cubed": "**3"}
_DEGREE = ("degree", "degrees")
_TEMPERATURES = {"c": "degC", "celsius": "degC", "centigrade": "degC", "f": "degF", "fahrenheit": "degF"}
_NO_UNITS = {
    "point",
    "points",
    "hand",
    "hands",
    "mark",
    "marks",
    "count",
    "counts",
    "turn",
    "turns",
    "quarter",
    "quarters",
}  # pint takes them for units
_NAME = re.compile(r"[^\W\d]+")

# The symbols that are units right after a number, without a space: 5cm, but not 5ab.
SYMBOL = re.compile(
    r"(?:[kMGTcdmnpuμ]?(?:m|g|L|l|N|J|W|V|A|Pa|Hz|eV|B|bit|mol|cal|Wh|s)|ft|in|yd|mi|hrs?|mins?|secs?|mph|kph|kmh|kmph"
    r"|lbs?|oz|rad|deg|degC|degF|atm|bar|psi|rpm|cc|sq|cu|pm|am|USD|EUR|GBP|RMB|CNY|INR|AD|BC|BCE|CE|yrs?)\.?"
)


def preload() -> None:
    """Load pint's units, which takes a second, so that the forked workers need not."""
    _registry()


def translate(word: str) -> list[str]:
    """The English names of a Chinese or Japanese unit or currency; nothing for a counter such as 个."""
    for prefix, power in _CHINESE_POWERS.items():
        if word.startswith(prefix) and (unit := _CHINESE.get(word.removeprefix(prefix))):
            return [unit, power]
    name = _CHINESE.get(word) or CURRENCIES.get(word)
    return [name] if name else [] if word in _COUNTERS else [word]


@lru_cache(maxsize=4096)
def leading_unit(words: Words) -> tuple[Any, Words]:
    """The longest unit at the start of some words, as pint's unit or None, and the words after it."""
    for size in range(min(len(words), _MAX_WORDS), 0, -1):
        unit = _parse(words[:size])
        if unit is not None:
            return unit, words[size:]
    return None, words


def factor(source: Any, target: Any) -> Fraction | None:
    """How many of the unit `target` make one of `source`; None if they measure different things or temperatures."""
    if source == target:
        return Fraction(1)
    if any("degree_" in str(unit) for unit in (source, target)):  # their scales start at different points
        return None
    try:
        with localcontext(_CONTEXT):
            one, other = (_registry().Quantity(Decimal(1), unit).to_base_units() for unit in (source, target))
            # Angles and bits are dimensionless, but their base units differ.
            if one.units != other.units:
                return None
            quotient = Fraction(Decimal(one.magnitude)) / Fraction(Decimal(other.magnitude))
    except (pint.PintError, ArithmeticError, TypeError, ValueError):
        return None
    # Pint's decimals are rounded; this turns 0.333... back into a third.
    return quotient.limit_denominator(10**15) if quotient >= 1 else 1 / (1 / quotient).limit_denominator(10**15)


def temperature(value: Decimal, source: Any, target: Any) -> Decimal | None:
    """A temperature on another scale; None unless both units are temperatures and one is in degrees."""
    if source is None or target is None or not any("degree_" in str(unit) for unit in (source, target)):
        return None
    try:
        return Decimal(_registry().Quantity(value, source).to(target).magnitude)
    except (pint.PintError, ArithmeticError, TypeError):
        return None


@cache
def _registry() -> Any:
    """Pint's units and the currencies, in decimals. Loading it takes a second."""
    registry: Any = pint.UnitRegistry(non_int_type=Decimal)
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry


def _parse(words: Words) -> Any:
    text = _expression(words)
    if text is None or len(text) > _MAX_CHARACTERS:
        return None
    try:
        unit = _registry().parse_units(text)
    except Exception:  # pint raises its own errors, and errors of the tokenizer and of arithmetic
        return None
    return None if str(unit) in ("", "dimensionless") else unit


def _expression(words: Words) -> str | None:
    """A unit in pint's notation: `square meters` is meters**2, `miles per hour` is miles/hour; None for other words."""
    if not words or words[0] in _NO_UNITS:
        return None
    parts: list[str] = []
    operator = power = prefix = ""
    for index, word in enumerate(words):
        following = words[index + 1].casefold() if index + 1 < len(words) else ""
        if word in ("squared", "cubed") or (word.startswith("^") and len(word) > 1):
            if not parts or operator:
                return None
            parts[-1] += _POWERS.get(word, "**" + word[1:])
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in ("/", "per", "*"):
            if not parts or operator:
                return None
            operator = "*" if word == "*" else "/"
        elif word == "micro":
            prefix = word
        elif word in _DEGREE and following in _TEMPERATURES:
            continue
        elif _NAME.fullmatch(word):
            if index and words[index - 1] in _DEGREE:
                word = _TEMPERATURES.get(word.casefold(), word)
            name = prefix + _SPELLINGS.get(word, word) + power
            parts.append((operator or "*") + name if parts else name)
            operator = power = prefix = ""
        else:
            return None
    return None if operator or power or prefix or not parts else "".join(parts)
