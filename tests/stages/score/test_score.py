"""`score` with Ray Train and the playground's policy, on rows written by hand."""

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.config import Experiment, Policy, Score, resolve
from ossft_ray.distributed.progress import ALREADY_COMPLETE
from ossft_ray.engines.training.scoring import TokenScores
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.example_tokens import EncodedExample
from ossft_ray.run_folder.names import INPUTS, MANIFEST
from ossft_ray.run_folder.parts import read_counts, write_counted
from ossft_ray.run_folder.stage_folder import finish_stage
from ossft_ray.stages.score import stage as score_stage
from ossft_ray.stages.score.stage import score, summarise_scores
from ossft_ray.stages.score.worker import (
    UnscoredPart,
    UnscoredResponse,
    group_parts,
    read_ahead,
    score_group,
    unscored_part,
)
from ossft_ray.stages.train.stage import train
from tests.stages.rows import write_examples
from tests.stages.score.killed import kill_once_written, written_at

NUM_ROWS, ROWS_OF_A_PART = 120, 4  # twice as many responses: several groups for each of two workers
TOLERANCE = 1e-4  # of a token's log p in float32, in nats


def experiment(output: Path, num_workers: int = 1, **settings: Any) -> Experiment:
    train_settings = {"precision": "fp32", "global_batch_size": 16, "max_length": 512, "loss": "iw_sft"} | settings
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": train_settings,
            "resources": {"num_train_workers": num_workers},
        }
    )


def write_rewritten(output: Path) -> list[dict[str, Any]]:
    """A rewrite with rows of all origins; the policy's responses are the boxed answer alone."""
    chat = load_chat(Policy(model="playground"))
    rows = write_examples(str(output), NUM_ROWS)
    for number, row in enumerate(rows):
        row["origin"] = ORIGINS[number % 4]
        if row["origin"] != "expert":
            row["response"] = rf"\boxed{{{row['answer']}}}"
            row["response_token_ids"] = chat.encode_response(row["response"])
    folder = Folder.at(str(output)) / "rewrite"
    for start in range(0, NUM_ROWS, ROWS_OF_A_PART):
        table = to_table(rows[start : start + ROWS_OF_A_PART], EXAMPLE_SCHEMA)
        folder.write_table(f"part-{start // ROWS_OF_A_PART:05d}.parquet", table)
    finish_stage(folder, {"rows": NUM_ROWS}, {"problems": NUM_ROWS})
    return rows


def read_scores(output: Path) -> list[dict[str, Any]]:
    return (Folder.at(str(output)) / "score").read_tables("part-*.parquet", SCORE_SCHEMA).to_pylist()


def first_step(output: Path) -> dict[str, Any]:
    return json.loads((output / "train" / "metrics.jsonl").read_text().splitlines()[0])


@pytest.fixture(scope="module")
def scored(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], Any]:
    """Two workers score another run's examples."""
    folder = tmp_path_factory.mktemp("scored")
    rows = write_rewritten(folder / "other")
    seen: list[dict[str, Any]] = []
    settings = experiment(folder / "run", num_workers=2, examples=str(folder / "other" / "rewrite"))
    manifest = score(settings, seen.append)
    assert seen[-1]["parts"] == seen[-1]["total"] == NUM_ROWS // ROWS_OF_A_PART
    return folder / "run", rows, (settings, manifest)


def test_values_are_those_of_transformers(scored: tuple[Path, list[dict[str, Any]], Any]) -> None:
    output, rows, _ = scored
    chat = load_chat(Policy(model="playground"))
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    found = {(row["problem_id"], row["source"]): row for row in read_scores(output)}
    assert len(found) == 2 * NUM_ROWS
    for row in rows:
        prompt = chat.render(row["prompt"])
        for source, response in (
            ("kept", row["response_token_ids"]),
            ("expert_original", chat.encode_response(row["expert_solution"])),
        ):
            entry = found[row["problem_id"], source]
            assert (entry["token_ids"], entry["origin"]) == (response, row["origin"])
            with torch.no_grad():
                logprob_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            plain = logprob_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
            assert entry["reference_logprobs"] == pytest.approx(plain, rel=0, abs=TOLERANCE)
            likelier = logprob_TV > torch.tensor(plain)[:, None] + TOLERANCE
            assert all(rank > count for rank, count in zip(entry["reference_ranks"], likelier.sum(-1), strict=True))


def test_manifest_is_a_hand_computation_on_the_rows(scored: tuple[Path, list[dict[str, Any]], Any]) -> None:
    output, _, (_, manifest) = scored
    scores = read_scores(output)
    groups = {origin: ("kept", (origin,)) for origin in ORIGINS}
    groups |= {"kept": ("kept", ORIGINS), "expert_originals": ("expert_original", ORIGINS)}
    for name, (source, origins) in groups.items():
        chosen = [row for row in scores if row["source"] == source and row["origin"] in origins]
        logprobs = [value for row in chosen for value in row["reference_logprobs"]]
        weights = [math.exp(value) for value in logprobs]
        mean = math.fsum(logprobs) / len(logprobs)
        squares = math.fsum(weight**2 for weight in weights)
        expected = {
            "tokens": len(logprobs),
            "responses": len(chosen),
            "mean_logprob": mean,
            "perplexity": math.exp(-mean),
            "effective_sample_size": math.fsum(weights) ** 2 / (len(weights) * squares),
        }
        assert manifest[name] == pytest.approx(expected), name
        assert sum(manifest["histogram"][name]) == len(logprobs)
    assert len(manifest["histogram"]["edges"]) == len(manifest["histogram"]["kept"]) + 1
    assert manifest["too_long"] == {"kept": 0, "expert_originals": 0}
    assert manifest["complete"] and json.loads((output / "score" / MANIFEST).read_text()) == manifest
    assert not (output / "score" / "workers").exists()


def test_complete_scores_are_left_alone_and_others_refused(scored: tuple[Path, list[dict[str, Any]], Any]) -> None:
    output, _, (settings, manifest) = scored
    reports: list[dict[str, Any]] = []
    assert score(settings, reports.append) == manifest and reports == [ALREADY_COMPLETE]
    shorter = experiment(output, examples=settings.train.examples, max_length=400)
    with pytest.raises(InputError, match=r"made with different settings: train\.max_length was 512, is now 400"):
        score(shorter)
    with pytest.raises(
        InputError, match=r"train\.max_length was 512, is now 400\. Run `ossft score --start-over` first"
    ):
        train(shorter)


def test_the_ratio_to_the_reference_is_one_at_step_0(scored: tuple[Path, list[dict[str, Any]], Any]) -> None:
    """Then the weight of iw_sft is 1, and the KL term of dft_k3 is 0."""
    output, _, (settings, _) = scored
    alone = settings.model_copy(update={"resources": experiment(output).resources})
    train(alone)
    step = first_step(output)
    assert step["coefficient_mean"] == pytest.approx(1, abs=1e-6)
    assert step["coefficient_variance"] == pytest.approx(0, abs=1e-6)
    anchored = alone.model_copy(update={"train": alone.train.model_copy(update={"loss": "dft_k3"})})
    train(anchored, start_over=True)
    step = first_step(output)
    assert step["coefficient_mean"] == pytest.approx(step["mean_token_probability"], abs=1e-6)


@pytest.mark.long
def test_a_killed_run_resumes_with_the_missing_parts(
    scored: tuple[Path, list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    source = str(scored[0].parent / "other" / "rewrite")
    config = tmp_path / "experiment.toml"
    config.write_text(
        f'[run]\noutput = "{tmp_path}/run"\n[policy]\nmodel = "playground"\n[data]\npath = "unused.jsonl"\n'
        f'[train]\nprecision = "fp32"\nmax_length = 512\nexamples = "{source}"\n[resources]\nnum_train_workers = 1\n'
    )
    run, parts = tmp_path / "run", "part-*.parquet"
    before = kill_once_written(config, run, parts)
    assert 0 < len(before) < NUM_ROWS // ROWS_OF_A_PART and not (run / "score" / MANIFEST).exists()

    seen: list[dict[str, Any]] = []
    manifest = score(experiment(run, examples=source), seen.append)
    assert seen[-1]["done_before"] == len(before)
    after = written_at(run, parts)
    assert {name: after[name] for name in before} == before and len(after) == NUM_ROWS // ROWS_OF_A_PART
    undisturbed, resumed = read_scores(scored[0]), read_scores(run)
    for theirs, ours in zip(undisturbed, resumed, strict=True):
        for name in ("reference_logprobs", "reference_masses"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), rel=0, abs=1e-5)
        assert ours == theirs
    assert manifest["kept"]["tokens"] == scored[2][1]["kept"]["tokens"]


def test_the_responses_of_a_part(tmp_path: Path) -> None:
    """Each problem's expert solution appears once; responses that are too long are left out and counted."""
    chat = load_chat(Policy(model="playground"))
    (row, other) = write_examples(str(tmp_path), 2)
    kept = [
        row | {"origin": "self", "response_token_ids": [7, chat.stop_token_ids[-1]]},
        row | {"origin": "self", "response_token_ids": [8, chat.end_of_turn_id]},
        other | {"expert_solution": None},
    ]
    _, responses, too_long, _ = unscored_part("part", kept, chat, experiment(tmp_path))
    prompt, solution = chat.render(row["prompt"]), chat.encode_response(row["expert_solution"])
    assert [(r.source, r.origin, r.encoded.response) for r in responses] == [
        ("kept", "self", [7, chat.end_of_turn_id]),  # closed as training closes it
        ("expert_original", "self", solution),
        ("kept", "self", [8, chat.end_of_turn_id]),
        ("kept", "expert", other["response_token_ids"]),
    ]
    assert responses[0].encoded.prompt == responses[1].encoded.prompt == prompt and too_long == {}
    shorter = experiment(tmp_path, max_length=len(prompt) + len(solution) - 1)
    _, responses, too_long, _ = unscored_part("part", kept[:2], chat, shorter)
    assert [r.source for r in responses] == ["kept", "kept"] and too_long == {"expert_original": 1}


def make_part(name: str, num_responses: int, first_token: int = 0) -> UnscoredPart:
    tokens = range(first_token, first_token + num_responses)
    encoded = [EncodedExample([1, 2], [token, 9], True) for token in tokens]
    responses = [UnscoredResponse(f"{name}-{example.response[0]}", "self", "kept", example) for example in encoded]
    return UnscoredPart(name, responses, {"kept": num_responses})


@pytest.mark.parametrize(
    "sizes, min_responses, expected",
    [
        ([], 4, []),
        ([5, 5], 4, [[5], [5]]),
        ([2, 2, 2, 2, 2], 4, [[2, 2], [2, 2], [2]]),
        ([0, 0, 9, 1], 4, [[0, 0, 9], [1]]),
    ],
    ids=["none", "large enough alone", "a smaller last group", "empty parts"],
)
def test_small_parts_are_scored_together(sizes: list[int], min_responses: int, expected: list[list[int]]) -> None:
    groups = group_parts((make_part(f"part-{number}", size) for number, size in enumerate(sizes)), min_responses)
    assert [[len(part.responses) for part in group] for group in groups] == expected


def test_the_next_group_is_read_while_one_is_scored() -> None:
    being_read = threading.Event()

    def groups() -> Iterator[int]:
        yield 0
        being_read.set()
        yield 1
        raise InputError("the third part is broken")

    ahead = read_ahead(groups())
    assert next(ahead) == 0 and being_read.wait(timeout=60)
    assert next(ahead) == 1
    with pytest.raises(InputError, match="the third part is broken"):
        next(ahead)
    assert list(read_ahead(iter([]))) == []


def test_parts_scored_together_are_written_separately(tmp_path: Path) -> None:
    class Scorer:
        def scores(self, examples: Any) -> list[TokenScores]:
            rows = np.split(examples.token_ids, examples.offsets[1:-1])
            responses = [row[start:] for row, start in zip(rows, examples.prompt_lengths, strict=True)]
            return [TokenScores(*(values.tolist() for values in (-row, row + 1, row / 2))) for row in responses]

    group = [
        make_part("part-0.parquet", 2),
        make_part("part-1.parquet", 0),
        make_part("part-2.parquet", 3, first_token=5),
    ]
    folder = Folder.at(str(tmp_path))
    folder.write_json(INPUTS, {})
    assert score_group(Scorer(), group, folder) == 10
    for part in group:
        rows = folder.read_table(part.name).to_pylist()
        assert [row["problem_id"] for row in rows] == [response.problem_id for response in part.responses]
        assert [row["reference_logprobs"] for row in rows] == [
            [-float(token) for token in response.encoded.response] for response in part.responses
        ]
        assert [row["reference_ranks"] for row in rows] == [
            [token + 1 for token in response.encoded.response] for response in part.responses
        ]
        assert [row["reference_masses"] for row in rows] == [
            [token / 2 for token in response.encoded.response] for response in part.responses
        ]
        counts = read_counts(folder, part.name)
        assert (counts["tokens"], counts["too_long"]) == (2 * len(rows), {"kept": len(rows)})


def test_plain_text_is_the_question_and_the_response_alone(tmp_path: Path) -> None:
    """As in the authors' get_probability.py: encoded together, split after the question's tokens, no end token."""
    chat = load_chat(Policy(model="playground"))
    [row] = write_examples(str(tmp_path), 1)
    settings = experiment(tmp_path).model_copy(update={"score": Score(plain_text=True)})
    part = unscored_part("part-00000.parquet", [row], chat, settings)
    both = chat.tokenizer(row["question"] + row["response"])["input_ids"]
    num_question = len(chat.tokenizer(row["question"])["input_ids"])
    plain = part.responses[0].plain
    assert plain == (both[:num_question], both[num_question:])
    assert chat.end_of_turn_id not in plain[1] and plain[0] != part.responses[0].encoded.prompt

    folder = Folder.at(str(tmp_path / "score"))
    folder.write_json(INPUTS, {})
    score_group(FakeScorer(), [part], folder)
    [kept, original] = folder.read_table(part.name).to_pylist()
    assert kept["plain_logprobs"] == [-1.0] * len(plain[1])
    assert kept["reference_logprobs"] == [-1.0] * len(row["response_token_ids"])
    figures = summarise_scores(folder)["plain_text"]
    assert figures["kept"]["sequence_logprob"] == -len(plain[1])
    assert figures["expert_originals"]["responses"] == 1 and original["plain_logprobs"]
    assert figures["gap"]["problems"] == 1


def test_scores_have_only_the_schemas_columns_without_plain_text(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    folder.write_json(INPUTS, {})
    score_group(FakeScorer(), [make_part("part-00000.parquet", 2)], folder)
    assert folder.read_table("part-00000.parquet").column_names == SCORE_SCHEMA.names
    figures = summarise_scores(folder)
    assert "plain_text" not in figures and figures["gap"]["kept"] is None, "there is no expert solution to pair with"


class FakeScorer:
    num_workers = 1

    def scores(self, examples: Any) -> list[TokenScores]:
        return [TokenScores([-1.0] * length, [1] * length, [1.0] * length) for length in examples.response_lengths]


def test_only_parts_whose_examples_have_changed_are_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem's attempts may change while its kept response stays, and parts may come or go."""
    scored_parts: list[str] = []

    def score_missing(work: Any, config: dict[str, Any], *others: Any) -> None:
        source, folder, chat = config["source"], config["folder"], load_chat(Policy(model="playground"))
        for name in sorted(set(source.names("part-*.parquet")) - set(folder.names("part-*.parquet"))):
            table = source.read_table(name)
            part = unscored_part(name, table.to_pylist(), chat, settings)
            score_group(FakeScorer(), [part], folder)
            scored_parts.append(name)

    monkeypatch.setattr(score_stage, "start_ray", lambda *arguments: None)
    monkeypatch.setattr(score_stage, "run_group", score_missing)
    settings, rewritten = experiment(tmp_path), Folder.at(str(tmp_path)) / "rewrite"
    rows = write_rewritten(tmp_path)
    before = score(settings)
    assert len(scored_parts) == NUM_ROWS // ROWS_OF_A_PART
    scored_parts.clear()

    first, third = ROWS_OF_A_PART, 3 * ROWS_OF_A_PART  # rows of parts 1 and 3
    rows[first]["response_token_ids"] = rows[first + 1]["response_token_ids"]
    rows[third]["num_attempts"] = 9
    for number in (1, 3):
        changed = rows[number * ROWS_OF_A_PART : (number + 1) * ROWS_OF_A_PART]
        rewritten.write_table(f"part-{number:05d}.parquet", to_table(changed, EXAMPLE_SCHEMA))
    num_parts = NUM_ROWS // ROWS_OF_A_PART
    rewritten.delete_file(f"part-{num_parts - 1:05d}.parquet")
    rewritten.write_table(f"part-{num_parts:05d}.parquet", to_table(rows[-ROWS_OF_A_PART:], EXAMPLE_SCHEMA))
    finish_stage(rewritten, {"rows": "others"}, {"problems": NUM_ROWS})
    with pytest.raises(InputError, match=r"the examples have changed since\. Run `ossft score` first"):
        train(settings)
    hearing = Mock(hears_announcements=True)
    after = score(settings, hearing)
    assert scored_parts == ["part-00001.parquet", f"part-{num_parts:05d}.parquet"]
    hearing.assert_any_call({"note": "score: the examples have changed since; parts to score again: 2"})
    assert after["fingerprint"] != before["fingerprint"] and after["kept"]["responses"] == NUM_ROWS
    assert f"part-{num_parts - 1:05d}.parquet" not in (Folder.at(str(tmp_path)) / "score").names()
    assert score(settings) == after and len(scored_parts) == 2


def test_a_group_without_tokens_has_no_figures(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    folder.write_json("inputs.json", {})
    write_counted(folder, "part-00000.parquet", SCORE_SCHEMA.empty_table(), {"too_long": {"kept": 3}, "seconds": 0.5})
    manifest = summarise_scores(folder)
    empty = {"tokens": 0, "responses": 0, "mean_logprob": None, "perplexity": None, "effective_sample_size": None}
    assert manifest["kept"] == manifest["guided"] == empty
    assert manifest["too_long"] == {"kept": 3, "expert_originals": 0}


def test_scoring_before_rewriting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rewrite: no complete examples .* run `ossft rewrite` first"):
        score(experiment(tmp_path))
