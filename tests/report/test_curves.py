"""Training curves: what is drawn, smoothed, and passed to the script that reads out values."""

import json

import pytest

from ossft_ray.report.curves import curve, smooth


def steps(count: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 1 / step, "self/loss": 0.5} for step in range(1, count + 1)]


def test_the_script_gets_the_steps_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = curve(steps(40), "loss", "x")
    assert found is not None and found.lines == ["all", "self"]
    data = json.loads(found.data)
    assert data["lines"]["all"][:3] == [[1, 1], [2, 0.5], [3, 0.3333]] and data["lines"]["self"][-1] == [40, 0.5]
    assert 0 < data["left"] < data["right"] <= 1 and data["low"] < 1 and data["high"] > 40
    assert found.last == {"all": 1 / 40, "self": 0.5}


@pytest.mark.parametrize("count, faint", [(40, 2), (5, 0)])
def test_many_steps_are_drawn_faint_under_their_mean(count: int, faint: int) -> None:
    found = curve(steps(count), "loss", "x")
    assert found is not None and str(found.picture).count("stroke-opacity: 0.25") == faint


def test_a_metric_that_no_step_has_gives_no_curve() -> None:
    assert curve(steps(3), "entropy", "x") is None
    assert curve([{"step": 1, "loss": float("nan")}], "loss", "x") is None


def test_long_curves_are_thinned_out() -> None:
    found = curve(steps(1000), "loss", "x")
    assert found is not None and len(json.loads(found.data)["lines"]["self"]) == 250


def test_a_smoothed_line_keeps_a_constant_and_follows_a_jump() -> None:
    assert smooth([3.0] * 50).tolist() == pytest.approx([3.0] * 50)
    jump = smooth([0.0] * 60 + [1.0] * 60)
    assert jump[59] == 0 and 0 < jump[60] < 0.5 and jump[-1] > 0.99
    assert smooth([7.0]).tolist() == [7.0]
