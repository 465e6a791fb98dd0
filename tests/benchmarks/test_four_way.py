"""Intervals of the four-way experiment: against values worked out by hand, and against simulation."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import four_way
from fourway.lab import Size
from fourway.statistics import estimate, holm, student_quantile
from fourway.worlds import Gsm8k, Playground, shuffled_guides

from ossft_ray.common.storage import Folder


@pytest.mark.parametrize("freedom, expected", [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (10_000, 1.960)])
def test_student_quantile(freedom: float, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=2e-3)


def test_one_seed_counts_problems_alone() -> None:
    values_SLP = np.array([[[0.0, 0.5, 1.0, 0.5]]])
    error = np.std([0.0, 0.5, 1.0, 0.5], ddof=1) / 2
    found = estimate(values_SLP)
    assert (found.mean, found.half_width) == (0.5, pytest.approx(3.182 * error, rel=1e-3))
    assert found.p_value == pytest.approx(scipy.stats.ttest_1samp(values_SLP[0, 0], 0).pvalue)


@pytest.mark.parametrize("seed_deviation, problem_deviation", [(0.1, 0.3), (0.3, 0.1), (0.0, 0.3), (0.2, 0.0)])
def test_intervals_cover(seed_deviation: float, problem_deviation: float) -> None:
    """About 95% of the intervals contain the true mean, 0, whichever varies more; 90% where little is averaged."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        values_SLP = rng.normal(0, seed_deviation, (3, 1, 1)) + rng.normal(0, problem_deviation, (1, 2, 20))
        values_SLP = values_SLP + rng.normal(0, 0.1, (3, 2, 20))
        covered.append(not estimate(values_SLP).is_clear)
    assert np.mean(covered) > 0.9


@pytest.mark.parametrize("seed_deviation, problem_deviation", [(0.02, 0.3), (0.1, 0.3), (0.3, 0.1), (0.02, 0.05)])
def test_two_seeds_cover_with_a_wider_interval(seed_deviation: float, problem_deviation: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        values_SLP = rng.normal(0, seed_deviation, (2, 1, 1)) + rng.normal(0, problem_deviation, (1, 2, 40))
        covered.append(not estimate(values_SLP + rng.normal(0, 0.1, (2, 2, 40))).is_clear)
    assert np.mean(covered) >= 0.93


def test_values_that_are_all_the_same_are_not_certain() -> None:
    found = estimate(np.full((3, 2, 30), 0.5))
    assert found.mean == 0.5 and found.half_width is not None and 0.05 < found.half_width < 0.2


def test_holm_adjusts_for_the_number_of_tests_and_keeps_the_order() -> None:
    assert holm({"a": 0.3, "b": 0.001, "c": 0.02, "d": 0.025}) == pytest.approx(
        {"a": 0.3, "b": 0.004, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def scores(accuracy: float, num_samples: int) -> dict[str, dict[str, dict[str, list]]]:
    right = round(accuracy * num_samples)
    answers = {
        "correct": [True] * right + [False] * (num_samples - right),
        "answered": [True] * num_samples,
        "tokens": [10] * num_samples,
    }
    return {f"level{level}": {f"{level}-{index}": answers for index in range(4)} for level in range(1, 6)}


def a_plan(num_seeds: int) -> four_way.Plan:
    seeds = range(num_seeds)
    return four_way.Plan(seeds, seeds, four_way.FOUR | four_way.PLACEBO, four_way.CONTROLS)


def test_page_says_what_was_not_run_and_keeps_the_surrounding_text(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path / "work"))
    (folder / "scores").write_json("base.json", scores(0.5, 16))
    (folder / "scores").write_json("expert-sft-seed0.json", scores(0.25, 8))
    (folder / "scores").write_json("dr-dft-seed0.json", scores(1.0, 8))
    (folder / "tuned").write_json("dr-dft.json", {"rate": 0.001, "accuracies": {"0.0001": [0.1], "0.001": [0.1, 0.3]}})
    lines, figures = four_way.tables(folder, Size(), a_plan(3))
    assert figures["base"]["accuracy"] == 0.5 and figures["DR+DFT"] == {"seeds": 1, "accuracy": 1.0}
    assert "| DFT | not run | | | | | | |" in [line.replace("  ", " ") for line in lines]
    assert any(line.startswith("| DR+DFT − SFT | 1 | +75.0") for line in lines)
    assert any(line.startswith("| DR+DFT − DFT | not run |") for line in lines)
    assert "| DR+DFT | 10.0 | 20.0 (10.0–30.0) | 0.001 (edge) |" in lines

    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\nBefore.\n\n{four_way.BEGIN}\nold\n{four_way.END}\nAfter.\n")
    four_way.write_page(page, ["new"])
    once = page.read_text()
    assert "old" not in once and "Before." in once and "After." in once
    four_way.write_page(page, ["new"])
    assert page.read_text() == once


def test_the_base_is_compared_on_samples_with_the_models_seeds(tmp_path: Path) -> None:
    base = scores(0.5, 16)  # its first 8 samples are right, its last 8 wrong
    found = four_way.page.differences({"DFT": [scores(1.0, 8)]}, base, "DFT", "base")
    assert found is not None and not found.any()


def test_a_contrast_that_was_not_run_counts_in_the_adjustment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def drawn(accuracy: float) -> dict[str, dict[str, dict[str, list]]]:
        return {"one": {str(i): {"correct": list(rng.random(8) < accuracy), "tokens": [1] * 8} for i in range(40)}}

    by_method = {"A": [drawn(0.5), drawn(0.5)] * 2, "B": [drawn(0.6), drawn(0.6)] * 2}
    base = {"one": {name: {key: value * 2 for key, value in of.items()} for name, of in drawn(0.5)["one"].items()}}
    rows = []
    for contrasts in ([("B", "A")], [("B", "A"), ("C", "A"), ("C", "B")]):
        lines = four_way.page.contrast_table("", contrasts, by_method, base, adjust=True)
        rows.append(next(line for line in lines if line.startswith("| B − A")).split("|"))
    alone, among_three = (float(row[-2]) for row in rows)
    assert among_three == pytest.approx(min(1.0, 3 * alone), rel=0.01)


def test_no_world_tunes_or_evaluates_on_problems_that_it_trains_on(tmp_path: Path) -> None:
    data = tmp_path / "gsm8k.jsonl"
    rows = [{"question": f"{i}?", "answer": f"So <<{i}+0={i}>>{i}\n#### {i}"} for i in range(7000)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for world, seeds, tuning_seeds in (
        (Playground(), range(10, 18), range(1000, 1003)),
        (Gsm8k(tmp_path, data), range(3), range(1000, 1002)),
    ):
        trained = [{each.question for each in world.problems(seed, 400, 0.0)} for seed in seeds]
        tuned_on = [{each.question for each in world.problems(seed, 400, 0.0)} for seed in tuning_seeds]
        tuning = {each.question for level in world.tuning_problems(30).values() for each in level}
        heldout = {each.question for level in world.heldout_problems(80).values() for each in level}
        assert not heldout & set().union(tuning, *trained, *tuned_on)
        assert not tuning & set().union(*tuned_on)
        if isinstance(world, Gsm8k):
            warm_up = {each.question for each in world.warm_up_problems(2000)}
            assert not warm_up & set().union(tuning, heldout, *trained, *tuned_on)


def test_only_takes_some_methods_and_names_the_others() -> None:
    plan = a_plan(2).only(["DFT", "rejection sampling"])
    assert (list(plan.primary), list(plan.others)) == (["DFT"], ["rejection sampling"])
    with pytest.raises(SystemExit, match="no method 'dft'; there are 'SFT', 'DFT'"):
        a_plan(2).only(["dft"])


def test_gsm8k_experts_have_no_notes_and_end_with_a_box(tmp_path: Path) -> None:
    data = tmp_path / "gsm8k.jsonl"
    data.write_text('{"question": "6*7?", "answer": "It is 6*7=<<6*7=42>>42.\\n#### 42"}\n' * 1501)
    (problem,) = Gsm8k(tmp_path, data).problems(0, 1)
    assert (problem.answer, problem.expert_solution) == ("42", "It is 6*7=42.\nThe answer is \\boxed{42}.")


def test_gsm8k_can_be_cut_to_problems_of_few_steps(tmp_path: Path) -> None:
    data, answer = tmp_path / "gsm8k.jsonl", "1+1=<<1+1=2>>2" * 2
    rows = [{"question": f"{i}?", "answer": f"{answer * (1 + i % 2)}\n#### 2"} for i in range(2000)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, short = Gsm8k(tmp_path, data), Gsm8k(tmp_path, data, max_steps=2)
    for world, share in ((whole, 1), (short, 2)):
        assert len(world.heldout_problems(1000)["gsm8k"]) == 1000 // share
        assert len(world.tuning_problems(1000)["gsm8k"]) == 500 // share
        assert len(world.warm_up_problems(1000)) == 500 // share
    few = short.heldout_problems(1000)["gsm8k"]
    assert {each.problem_id for each in few} < {each.problem_id for each in whole.heldout_problems(1000)["gsm8k"]}
    assert all((each.expert_solution or "").count("=") == 2 for each in few)


def test_shuffled_guides_solve_another_problem() -> None:
    problems = Playground().problems(0, 6, 0.0)
    shuffled = shuffled_guides(problems)
    assert [each.question for each in shuffled] == [each.question for each in problems]
    assert not any(a.expert_solution == b.expert_solution for a, b in zip(problems, shuffled, strict=True))
    assert {each.expert_solution for each in shuffled} == {each.expert_solution for each in problems}
