"""Which response of a problem each rule selects; rules that lack their input; resuming and the holdout."""

import math
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.run_folder.names import INPUTS
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import finish_stage
from ossft_ray.stages.score.stage import score_inputs
from ossft_ray.stages.train.reference_scores import score_folder
from ossft_ray.stages.train.selection import Candidate, rank_surprisal_ratio, select_responses
from ossft_ray.stages.train.stage import _inputs
from ossft_ray.stages.train.training_examples import TrainingExamples, load_training_examples
from ossft_ray.terminal.results import print_training
from tests.stages.rows import write_examples

# problem p has three responses and q one; by attempt: tokens, log p and rank of each
CANDIDATES = [
    Candidate("p", 4, [-0.5, -0.5, -0.5, -0.5], [1, 2, 1, 2]),  # Σ rank 6, Σ -log p 2
    Candidate("p", 2, [-1.0, -2.0], [1, 500]),  # 101 / 3
    Candidate("q", 1, [-9.0], [7]),
    Candidate("p", 3, [-3.0, -3.0, -0.1], [2, 2, 1]),  # 5 / 6.1
]


@pytest.mark.parametrize(
    ("select", "chosen"),
    [("all", [0, 1, 2, 3]), ("first", [0, 2]), ("closest", [0, 2]), ("rsr", [2, 3]), ("shortest", [1, 2])],
)
def test_each_rule(select: Any, chosen: list[int]) -> None:
    assert select_responses(CANDIDATES, select) == chosen


@pytest.mark.parametrize("select", ["first", "closest", "rsr", "shortest"])
def test_the_earlier_of_equally_good_attempts_is_taken(select: Any) -> None:
    equal = Candidate("p", 2, [-0.2, -0.4], [1, 3])
    assert select_responses([equal, equal, equal._replace(problem_id="q")], select) == [0, 2]


def test_the_ratio_is_the_papers_with_ranks_clipped_at_100() -> None:
    assert rank_surprisal_ratio([-0.25, -1.0], [1, 4]) == pytest.approx(5 / 1.25)
    assert rank_surprisal_ratio([-0.25, -1.0], [101, 99]) == pytest.approx(199 / 1.25)
    assert rank_surprisal_ratio([0.0, 0.0], [1, 1]) == math.inf, "the policy has nothing to learn from it"
    assert select_responses([Candidate("p", 1, [0.0], [1]), Candidate("p", 1, [-1.0], [9])], "rsr") == [1]


def settings(output: Path, **train: Any) -> Experiment:
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": {"max_length": 512} | train,
        }
    )


def write_run(output: Path, num_problems: int = 6) -> None:
    """Three responses of different lengths for each problem, in two parts, and their scores.

    The second response is the closest, the third has the lowest ratio and is the shortest.
    """
    rows = write_examples(str(output), num_problems)
    folder, examples, scores = Folder.at(str(output)), [], []
    for row in rows:
        for index, logprob, rank in ((0, -1.0, 5), (1, -0.1, 1), (2, -2.0, 2)):
            tokens = [10 + index] * (6 - index) + row["response_token_ids"][-1:]
            examples.append(row | {"origin": "self", "kept_index": index, "response_token_ids": tokens})
            of_tokens = {"reference_logprobs": [logprob] * len(tokens), "reference_ranks": [rank] * len(tokens)}
            scores.append(
                {"problem_id": row["problem_id"], "origin": "self", "source": "kept", "token_ids": tokens} | of_tokens
            )
    for name, half in (("part-00000.parquet", slice(0, 8)), ("part-00001.parquet", slice(8, None))):
        (folder / "rewrite").write_table(name, to_table(examples[half], EXAMPLE_SCHEMA))
        (folder / "score").write_table(name, to_table(scores[half], SCORE_SCHEMA))
    inputs = score_inputs(Run(settings(output)), folder / "rewrite")
    (folder / "score").write_json(INPUTS, inputs)
    finish_stage(folder / "score", inputs, {})


def load(output: Path, **train: Any) -> TrainingExamples:
    run = Run(settings(output, **train))
    source = run.folder / "rewrite"
    return load_training_examples(source, run.chat, run.experiment, score_folder(run, source))


@pytest.mark.parametrize(("select", "index"), [("first", 0), ("closest", 1), ("rsr", 2), ("shortest", 2)])
def test_one_response_of_each_problem_is_trained_on_even_across_parts(tmp_path: Path, select: str, index: int) -> None:
    write_run(tmp_path)
    loaded = load(tmp_path, select=select)
    examples = loaded.examples
    assert len(set(examples.problem_ids)) == len(examples) == 6
    assert loaded.num_not_selected == 12
    assert {int(examples.token_ids[end - 2]) for end in examples.offsets[1:]} == {10 + index}
    assert examples.reference_logprobs is None, "no loss needs them"


def test_all_responses_are_the_default(tmp_path: Path) -> None:
    write_run(tmp_path)
    loaded = load(tmp_path)
    assert (len(loaded.examples), loaded.num_not_selected) == (18, 0)


def test_the_loss_sees_the_reference_of_the_chosen_response(tmp_path: Path) -> None:
    write_run(tmp_path)
    examples = load(tmp_path, select="closest", loss="iw_sft").examples
    assert examples.reference_logprobs is not None
    assert examples.reference_logprobs.tolist() == pytest.approx([-0.1] * int(examples.response_lengths.sum()))


def test_the_holdout_has_one_response_of_each_of_its_problems_too(tmp_path: Path) -> None:
    write_run(tmp_path, 20)
    loaded = load(tmp_path, select="rsr", holdout=0.3)
    assert loaded.holdout is not None
    assert len(loaded.examples) + len(loaded.holdout) == 20
    assert set(loaded.examples.problem_ids).isdisjoint(loaded.holdout.problem_ids)
    assert loaded.holdout.problem_ids == load(tmp_path, holdout=0.3).holdout.problem_ids[::3]  # type: ignore[union-attr]


def test_a_response_that_is_too_long_is_no_candidate(tmp_path: Path) -> None:
    write_run(tmp_path, 1)
    length = int(load(tmp_path, select="shortest").examples.lengths[0])
    loaded = load(tmp_path, select="first", max_length=length)
    assert (loaded.examples.lengths.tolist(), len(loaded.too_long)) == ([length], 2)


def test_a_rule_without_its_input_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    scores = Folder.at(str(tmp_path / "score"))
    for name in scores.names("part-*"):
        of_older = scores.read_table(name).drop_columns(["reference_ranks", "reference_masses"])
        scores.write_table(name, of_older)
    assert len(load(tmp_path, select="closest").examples) == 6, "older scores have what it needs"
    with pytest.raises(
        InputError, match=r'score: has no ranks .* train.select = "rsr" needs .*`ossft score --start-over`'
    ):
        load(tmp_path, select="rsr")
    with pytest.raises(InputError, match=r'score: has no masses .* train.loss = "prift_mass" needs'):
        load(tmp_path, loss="prift_mass")
    scores.delete_file("manifest.json")
    with pytest.raises(InputError, match=r'no complete scores .* train.select = "closest" needs; run `ossft score`'):
        load(tmp_path, select="closest")
    assert len(load(tmp_path, select="shortest").examples) == 6, "it needs no scores"


def test_another_rule_is_another_training(tmp_path: Path) -> None:
    write_run(tmp_path)
    run = Run(settings(tmp_path))
    source, scores = run.folder / "rewrite", run.folder / "score"
    assert "select" not in _inputs(run, source, None)["train"], "so trainings of older versions can be resumed"
    chosen = _inputs(Run(settings(tmp_path, select="rsr")), source, scores)
    assert (chosen["train"]["select"], chosen["score"]) == ("rsr", scores.read_json("manifest.json")["fingerprint"])


def test_the_summary_says_how_many_were_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = {"steps": 3, "examples": 6, "too_long": ["p"], "not_selected": 1200, "cross_entropy": 0.5}
    print_training(settings(tmp_path), manifest, "ossft evaluate")
    assert "on 6 examples (1 set aside as too long, 1,200 left out by train.select)" in capsys.readouterr().out
