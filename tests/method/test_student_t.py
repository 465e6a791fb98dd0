"""Student's t against printed tables, and against its density integrated step by step."""

import math

import pytest

from ossft_ray.method.student_t import quantile, two_sided_probability


@pytest.mark.parametrize(
    "degrees, t_80, t_975",  # from printed tables
    [
        (1, 1.376, 12.706),
        (2, 1.061, 4.303),
        (3, 0.978, 3.182),
        (4, 0.941, 2.776),
        (5, 0.920, 2.571),
        (10, 0.879, 2.228),
        (29, 0.854, 2.045),
        (30, 0.854, 2.042),
        (120, 0.845, 1.980),
        (499, 0.842, 1.965),
    ],
)
def test_quantiles(degrees: int, t_80: float, t_975: float) -> None:
    assert quantile(0.80, degrees) == pytest.approx(t_80, abs=6e-4)
    assert quantile(0.975, degrees) == pytest.approx(t_975, abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 8, 39])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5])
def test_probability_is_the_integral_of_the_density(degrees: int, t: float) -> None:
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    steps = 2000
    points = [t * (step + 0.5) / steps for step in range(steps)]
    half = sum(scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2) for x in points) * t / steps
    assert two_sided_probability(t, degrees) == pytest.approx(2 * half, abs=1e-6)


@pytest.mark.parametrize("probability, degrees", [(0.4, 5), (1.0, 5), (0.9, 0)])
def test_what_has_no_quantile(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        quantile(probability, degrees)
