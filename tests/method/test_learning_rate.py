"""The learning rate at each step of a run."""

import pytest

from ossft_ray.method.learning_rate import learning_rate_at


@pytest.mark.parametrize(
    "step, num_steps, warmup_ratio, expected",
    [
        (0, 10, 0.0, 1.0),
        (5, 10, 0.0, 0.5),
        (9, 10, 0.0, 0.02447),
        (0, 10, 0.1, 0.5),  # one step of warm-up, half-way up
        (1, 10, 0.1, 1.0),
        (0, 100, 0.1, 1 / 11),
        (9, 100, 0.1, 10 / 11),
        (10, 100, 0.1, 1.0),
        (55, 100, 0.1, 0.5),
        (0, 1, 0.1, 1.0),
    ],
)
def test_learning_rate(step: int, num_steps: int, warmup_ratio: float, expected: float) -> None:
    assert learning_rate_at(step, num_steps, 1.0, warmup_ratio) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("step, expected", [(0, 0.0), (1, 0.1), (9, 0.9), (10, 1.0), (55, 0.5), (99, 0.000305)])
def test_the_warm_up_may_begin_with_rate_0(step: int, expected: float) -> None:
    """As in transformers' get_cosine_schedule_with_warmup, which the authors use."""
    assert learning_rate_at(step, 100, 1.0, 0.1, from_zero=True) == pytest.approx(expected, abs=1e-6)
