"""What does Student's t distribution say? Its two-sided probability and its quantiles, for whole degrees of freedom."""

import math

_MAX_QUANTILE = 1e9  # beyond any that is asked for: with one degree of freedom, that of 1 - 3e-10
_BISECTIONS = 100


def two_sided_probability(t: float, degrees: int) -> float:
    """P(-t <= T <= t) for t >= 0 (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: finite sums over cos θ)."""
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for j in range(3 if is_odd else 2, degrees - 1, 2):
        term *= cosine**2 * (j - 1) / j
        total += term
    return 2 / math.pi * (theta + sine * total) if is_odd else sine * total


def quantile(probability: float, degrees: int) -> float:
    """The t below which a share `probability` of the distribution lies, by bisection.

    Raises:
        ValueError: `probability` is not within 1/2 and 1, or there are no degrees of freedom.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(f"no quantile of probability {probability} with {degrees} degrees of freedom")
    low, high = 0.0, _MAX_QUANTILE
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if two_sided_probability(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2
