r"""Does a guided response give away that it was guided? It mentions the reference, or copies it.

A phrase counts wherever it stands as words of its own, whatever its case, white space and emphasis:

| response                               | found                | rule                                          |
|----------------------------------------|----------------------|-----------------------------------------------|
| `As the **Provided\nSolution** shows`  | `provided solution`  | case, white space, emphasis, quotation marks  |
| `unprovided solutions`                 |                      | parts of words are other words                |
| `the provided solution set is empty`   |                      | a longer term of mathematics (`LONGER_TERMS`) |
| `a solution is given by x = 2`         |                      | ordinary mathematics is in no default phrase  |

What was copied is counted in words: runs of letters, numbers (1,000 is 1000) and LaTeX commands, and characters of
scripts that set no spaces. Case, symbols, punctuation, layout commands and GSM8K's `<<48/2=24>>` notes do not count.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ossft_ray.common.prompt_templates import REFERENCE_PHRASES

LONGER_TERMS: tuple[str, ...] = (
    *("set", "space", "curve", "vector", "pair", "interval", "region"),  # after "solution"
    *("choice", "option", "format", "blank"),  # after "answer"
    *("angle", "frame", "point", "line", "level", "direction", "axis", "system", "triangle", "value", "number"),
)
"""A phrase directly before one of these (or its plural) is part of a longer term: solution set, reference angle."""

DEFAULT_MAX_COPIED = 0.3  # where too little is known of the data; see `calibrate`
MIN_MAX_COPIED = 0.2  # a question's sentence that both solutions repeat makes up so much of a short response
FALSE_POSITIVE_RATE = 0.01
MIN_SHARES = 20

_NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, Han
_LAYOUT = r"\\(?:left|right|big|Big|bigg|Bigg|quad|qquad|displaystyle|limits|text|mathrm)(?![A-Za-z])"
_WORD = re.compile(
    rf"<<[^<>\n]*>>|\\\\|{_LAYOUT}"  # passed over
    rf"|(\\[A-Za-z]+|[{_NO_SPACES}]|[^\W\d_{_NO_SPACES}]+|\d+(?:,\d{{3}})*(?:\.\d+)?)"
)
_BETWEEN_WORDS = re.compile(r"[\s*_\"“”]+")


def mentions_reference(text: str, phrases: Sequence[str] = REFERENCE_PHRASES) -> str | None:
    """The first of `phrases` that `text` says, or None; by the rules of the module's table."""
    plain = _plain(text)
    for phrase in phrases:
        wanted = _plain(phrase).strip()
        # The search for plain text is so much faster that the pattern costs nothing.
        if wanted and wanted in plain and _pattern(wanted).search(plain):
            return phrase
    return None


def copied_share(response: str, guide: str, ngram: int) -> float:
    """Share of the response's words that stand in a run of at least `ngram` words which the guide has too, 0..1.

    A response of fewer words has copied all if it equals the guide, else nothing. Takes time in proportion to the
    length of both, whatever they hold.

    >>> copied_share("So we add 2 and 3 to get 5.", "First, we add 2 and 3. That is 5.", ngram=4)
    0.5555555555555556
    """
    words, guide_words = list(_words(response)), list(_words(guide))
    if len(words) < ngram:
        return float(words == guide_words != [])
    runs, guide_runs = _number_runs([words, guide_words], ngram)
    in_guide = set(guide_runs)
    copied = end = 0
    for start, run in enumerate(runs):
        if run in in_guide:
            copied += start + ngram - max(start, end)
            end = start + ngram
    return copied / len(words)


def calibrate(shares: Sequence[float]) -> float:
    """The largest share of a guided response that may be copied, from shares of responses that never saw the guide.

    `shares` are what `self` responses of the same data have in common with expert solutions that they never saw. As
    many words may come together by chance, or because both repeat the question; more than nearly all of them is a
    copy. The limit is the k-th smallest of n shares, k = ceil((n + 1) (1 - 0.01)), or the largest share where k > n.
    An honest guided response whose share comes from the same distribution exceeds it with a probability of at most
    1% for n >= 99, and of at most 1/(n + 1) below (split conformal prediction; Vovk et al. 2005, section 4.2),
    whatever the distribution. Guided problems are the harder ones, so that is an aim and no guarantee.

    Two bounds beside it: fewer than 20 shares say too little, and give `DEFAULT_MAX_COPIED`; and the limit is at
    least `MIN_MAX_COPIED`, else data on which nothing is ever shared would forbid a single common run. There is no
    upper bound: where a policy knows the solutions by heart, a copy proves nothing.

    >>> calibrate([0.0] * 95 + [0.4, 0.4, 0.4, 0.5, 0.9])
    0.9
    """
    if len(shares) < MIN_SHARES:
        return DEFAULT_MAX_COPIED
    rank = math.ceil((len(shares) + 1) * (1 - FALSE_POSITIVE_RATE))
    return max(sorted(shares)[min(rank, len(shares)) - 1], MIN_MAX_COPIED)


def _plain(text: str) -> str:
    return _BETWEEN_WORDS.sub(" ", text.replace("’", "'").casefold())


@lru_cache(maxsize=256)
def _pattern(phrase: str) -> re.Pattern[str]:
    """Finds a plain phrase as whole words; scripts without spaces have no such bounds."""
    in_word = rf"[^\W{_NO_SPACES}]"
    before = r"(?<!\w)" if re.match(in_word, phrase) else ""
    after = rf"(?!\w| (?:{'|'.join(LONGER_TERMS)})s?\b)" if re.match(in_word, phrase[-1]) else ""
    return re.compile(before + re.escape(phrase) + after)


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        if word := match[1]:
            # \Delta is not \delta
            yield word if word[0] == "\\" else word.replace(",", "").casefold()


def _number_runs(texts: Sequence[Sequence[str]], length: int) -> list[list[int]]:
    """Every run of `length` words as a number, equal for equal runs; in log2(length) steps over the texts.

    Each step doubles the runs: a run is the pair of its two (overlapping) parts (Karp, Miller and Rosenberg 1972).
    """
    numbers: dict[str, int] = {}
    runs = [[numbers.setdefault(word, len(numbers)) for word in text] for text in texts]
    width = 1
    while width < length:
        step = min(width, length - width)
        pairs: dict[tuple[int, int], int] = {}
        runs = [
            [pairs.setdefault(pair, len(pairs)) for pair in zip(numbered, numbered[step:], strict=False)]
            for numbered in runs
        ]
        width += step
    return runs
