"""The policy gap's figures, against a computation by hand."""

import math

import numpy as np
import pytest

from ossft_ray.method.gap import EDGES, LogprobSums

PROBABILITIES = [0.5, 0.25, 1.0, 0.125]


def test_figures_by_hand() -> None:
    figures = LogprobSums.of(np.log(np.array(PROBABILITIES, dtype=np.float32))).figures()
    assert figures["tokens"] == 4
    assert figures["mean_logprob"] == pytest.approx(-(1 + 2 + 0 + 3) * math.log(2) / 4)
    assert figures["perplexity"] == pytest.approx(2 ** (6 / 4))
    assert figures["effective_sample_size"] == pytest.approx(1.875**2 / (4 * (0.25 + 0.0625 + 1 + 0.015625)))


def test_parts_add_up_to_the_whole() -> None:
    logprobs = -3 * np.random.default_rng(0).random(100)
    whole, parts = LogprobSums.of(logprobs), LogprobSums.of(logprobs[:37]) + LogprobSums.of(logprobs[37:])
    assert parts.figures() == pytest.approx(whole.figures())
    assert (parts.histogram == whole.histogram).all() and whole.histogram.sum() == 100


@pytest.mark.parametrize(
    "logprob, place", [(0.0, -1), (1e-6, -1), (-0.1, -1), (-0.3, -2), (-19.9, 0), (-20.0, 0), (-500.0, 0)]
)
def test_every_token_is_in_the_histogram(logprob: float, place: int) -> None:
    histogram = LogprobSums.of(np.array([logprob])).histogram
    assert len(histogram) == len(EDGES) - 1 and (EDGES[0], EDGES[-1]) == (-20.0, 0.0)
    assert histogram[place] == histogram.sum() == 1


@pytest.mark.parametrize(
    "logprobs, expected",
    [
        ([], {"tokens": 0, "mean_logprob": None, "perplexity": None, "effective_sample_size": None}),
        ([0.0, 0.0], {"tokens": 2, "mean_logprob": 0.0, "perplexity": 1.0, "effective_sample_size": 1.0}),
        ([-900.0], {"tokens": 1, "mean_logprob": -900.0, "perplexity": math.exp(700), "effective_sample_size": 0.0}),
    ],
)
def test_figures_at_the_ends(logprobs: list[float], expected: dict[str, float | None]) -> None:
    assert LogprobSums.of(np.array(logprobs)).figures() == expected
