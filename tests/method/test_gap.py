"""The policy gap's figures, against a computation by hand."""

import math

import numpy as np
import pytest

from ossft_ray.method.gap import EDGES, LogprobSums, ProblemGaps, sequence_figures

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
def test_figures_at_the_extremes(logprobs: list[float], expected: dict[str, float | None]) -> None:
    assert LogprobSums.of(np.array(logprobs)).figures() == expected


def test_the_gap_is_paired_by_problem() -> None:
    """Every response counts with the mean of its tokens, however long it is; parts may split a problem."""
    gaps = ProblemGaps()
    gaps.update([("a", "self", True, np.array([-1.0])), ("a", "self", False, np.array([-4.0, -6.0]))])
    gaps.update([("b", "guided", True, np.array([-1.0, -3.0])), ("b", "guided", False, np.array([-3.0] * 100))])
    gaps.update([("c", "self", True, np.array([-0.5])), ("d", "self", False, np.array([-9.0]))])  # without a partner
    gaps.update([("a", "self", True, np.array([-2.0, -4.0, -3.0]))])
    # a: kept -1 and -3, so -2, against -5: +3; b: -2 against -3: +1. Their mean is 2, sd sqrt(2), over sqrt(2): error 1
    margin = 12.706205  # Student's quantile with one degree of freedom
    assert gaps.figures() == pytest.approx(
        {"problems": 2, "before": -4, "after": -2, "difference": 2, "stderr": 1, "low": 2 - margin, "high": 2 + margin}
    )
    assert gaps.figures("self") == {"problems": 1, "before": -5, "after": -2, "difference": 3} | {
        "stderr": 0.0,
        "low": None,
        "high": None,
    }
    assert gaps.figures("expert") is None and ProblemGaps().figures() is None


def test_token_weighting_and_pairing_disagree_where_long_responses_are_likelier() -> None:
    kept, original = [np.full(10, -2.0), np.full(10, -2.0)], [np.full(10, -10.0), np.full(90, -1.0)]
    gaps = ProblemGaps()
    gaps.update([(str(n), "self", True, each) for n, each in enumerate(kept)])
    gaps.update([(str(n), "self", False, each) for n, each in enumerate(original)])
    paired = gaps.figures()
    assert paired is not None and paired["difference"] == pytest.approx((8 - 1) / 2)
    by_tokens = LogprobSums.of(np.concatenate(kept)), LogprobSums.of(np.concatenate(original))
    assert by_tokens[0].figures()["mean_logprob"] - by_tokens[1].figures()["mean_logprob"] == pytest.approx(-2 + 1.9)


def test_a_response_without_tokens_is_left_out() -> None:
    gaps = ProblemGaps()
    gaps.update([("a", "self", True, np.array([])), ("a", "self", False, np.array([-1.0]))])
    assert gaps.figures() is None


def test_the_authors_figures_are_averages_over_sequences() -> None:
    found = sequence_figures([np.log([0.5, 0.125]), np.log([0.5]), np.array([])])
    # means of log2 p: -2 and -1; sums: -4 and -1
    assert found == {
        "responses": 2,
        "sequence_logprob": pytest.approx(-2.5 * math.log(2)),
        "mean_logprob": pytest.approx(-1.5 * math.log(2)),
        "geometric_mean_probability": pytest.approx((0.25 + 0.5) / 2),
        "perplexity": pytest.approx((4 + 2) / 2),
    }
    assert sequence_figures([]) == {
        "responses": 0,
        "sequence_logprob": None,
        "mean_logprob": None,
        "geometric_mean_probability": None,
        "perplexity": None,
    }
