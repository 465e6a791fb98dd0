"""What a decoding step costs, fitted to requests of a simulated engine whose costs are known."""

import pytest

from ossft_ray.stages.check.throughput import Span, StepCost, fit_step_cost


def simulate(lengths: list[int], fixed: float, each: float, window: int = 10**9) -> list[Span]:
    """An engine that decodes one token of every request in flight at each step; the next begins when one ends."""
    waiting, running = list(lengths), []
    spans, now = [], 0.0
    while waiting or running:
        while waiting and len(running) < window:
            length = waiting.pop(0)
            running.append([length, length, now])
        now += fixed + each * len(running)
        for request in running:
            request[1] -= 1
        spans += [Span(began, now, length) for length, left, began in running if left == 0]
        running = [request for request in running if request[1]]
    return spans


LENGTHS = [10 * index for index in range(1, 33)]


@pytest.mark.parametrize(
    "fixed, each",
    [(0.01, 0.001), (0.01, 0.0), (0.0, 0.002), (0.002, 0.0005)],
    ids=["both", "a GPU with room", "nothing shared", "mixed"],
)
def test_the_costs_of_a_simulated_engine_are_found(fixed: float, each: float) -> None:
    found = fit_step_cost([simulate(LENGTHS, fixed, each)])
    assert found is not None
    assert (found.fixed, found.each) == (pytest.approx(fixed, abs=1e-9), pytest.approx(each, abs=1e-9))


def test_two_engines_are_one_fit() -> None:
    found = fit_step_cost([simulate(LENGTHS, 0.01, 0.001), simulate([50] * 4, 0.01, 0.001)])
    assert found is not None
    assert (found.fixed, found.each) == (pytest.approx(0.01), pytest.approx(0.001))


def test_a_fuller_batch_is_foretold() -> None:
    probe = simulate(LENGTHS, 0.01, 0.001)
    cost = fit_step_cost([probe])
    assert cost is not None
    full = simulate(LENGTHS * 50, 0.01, 0.001, window=256)
    num_tokens = sum(span.num_tokens for span in full)
    took = max(span.ended for span in full)
    assert cost.per_token(256) * num_tokens == pytest.approx(took, rel=0.05)
    as_the_probe = max(span.ended for span in probe) / sum(span.num_tokens for span in probe) * num_tokens
    assert as_the_probe > 1.3 * took, "which scaling the probe would have missed"


@pytest.mark.parametrize(
    "spans, expected",
    [
        ([], None),
        ([Span(0.0, 1.0, 0)], None),
        ([Span(0.0, 2.0, 4)], StepCost(0.5, 0.0)),
        ([Span(0.0, 2.0, 4), Span(0.0, 2.0, 4)], StepCost(0.5, 0.0)),  # one load tells no slope
        ([Span(0.0, 4.0, 1), Span(1.0, 2.0, 1), Span(1.0, 2.0, 1)], StepCost(2.0, 0.0)),  # faster where fuller
    ],
    ids=["none", "no tokens", "one", "always the same load", "falling"],
)
def test_few_requests(spans: list[Span], expected: StepCost | None) -> None:
    found = fit_step_cost([spans])
    assert found == expected or (
        found is not None
        and expected is not None
        and (found.fixed, found.each) == (pytest.approx(expected.fixed), pytest.approx(expected.each))
    )
