"""Attempts under a teacher: which are scored and how, what is refused, and training on them with the loss `opd`."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import ATTEMPT_SCORE_SCHEMA, DROPPED_SCHEMA, SCORE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Policy, Train, resolve
from ossft_ray.engines.training.batches import Examples
from ossft_ray.engines.training.scoring import TokenScores
from ossft_ray.method.prompts import guided_prompt
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.names import ATTEMPT_PARTS, INPUTS, MANIFEST
from ossft_ray.run_folder.parts import write_counted, write_part
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import finish_stage
from ossft_ray.stages.score import stage, teacher, worker
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.score.teacher import check_teacher_settings, check_vocabulary, unscored_attempts
from ossft_ray.stages.train.stage import train
from ossft_ray.stages.train.training_examples import load_training_examples
from tests.stages.rows import write_examples
from tests.stages.score.killed import kill_once_written, written_at

Row = dict[str, Any]
TOLERANCE = 1e-4  # of a token's log p in float32, in nats


def experiment(output: Path, teacher_name: str = "guided", **train_settings: Any) -> Experiment:
    training = {"precision": "fp32", "global_batch_size": 4, "max_length": 512, "loss": "opd"} | train_settings
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "rewrite": {"keep_attempts": True, "guided_alignment": {"hide_answer": False}},
            "score": {"teacher": teacher_name},
            "train": training,
            "resources": {"num_train_workers": 1},
        }
    )


def attempted(row: Row, responses: list[list[int]], correct: int | None = None) -> Row:
    """The row with these responses as self attempts, one of which may be correct, and a guided attempt."""
    stages = [("self", index) for index in range(len(responses))] + [("guided", 0)]
    attempts = [
        {"stage": stage, "index": index, "correct": stage == "self" and index == correct, "reason": "wrong"}
        | {"finish_reason": "stop", "num_tokens": 2, "response": "text"}
        for stage, index in stages
    ]
    tokens = {"attempt_answers": None, "attempt_token_ids": [*responses, [5, 5]]}
    return row | {"verifier": "", "attempts": attempts, **tokens}


def write_attempts(output: Path, chat: Chat, num_parts: int = 2) -> list[Row]:
    """A rewrite of two problems a part: one kept, with a wrong and a right attempt, one dropped, with a wrong one."""
    rows = write_examples(str(output), 2 * num_parts)
    folder = Folder.at(str(output)) / "rewrite"
    folder.write_json(INPUTS, {})
    found = []
    for number in range(num_parts):
        pair = rows[2 * number : 2 * number + 2]
        right, wrong = (chat.encode_response(rf"\boxed{{{text}}}") for text in (pair[0]["answer"], "12"))
        kept = attempted(pair[0], [wrong[:-1], right], correct=1)  # the first ran into max_tokens
        kept |= {"origin": "self", "response_token_ids": right, "kept_index": 1, "num_correct": 1}
        dropped = {name: value for name, value in attempted(pair[1], [wrong]).items() if name in DROPPED_SCHEMA.names}
        write_part(folder, f"part-{number:05d}.parquet", [kept], [dropped], {})
        found += [kept, dropped]
    finish_stage(folder, {"rows": num_parts}, {"problems": 2 * num_parts})
    return found


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(Policy(model="playground"))


@pytest.mark.parametrize("name", ["guided", "another"])
def test_all_self_attempts_are_scored_as_they_were_sampled(tmp_path: Path, chat: Chat, name: str) -> None:
    rows = write_attempts(tmp_path, chat, num_parts=1)
    found = unscored_attempts("part-00000.parquet", rows, chat, chat, experiment(tmp_path, name))
    assert found.name == "attempts-00000.parquet" and found.too_long == 0
    assert [(row["problem_id"], row["index"], row["correct"]) for row in found.responses] == [
        (rows[0]["problem_id"], 0, False),
        (rows[0]["problem_id"], 1, True),
        (rows[1]["problem_id"], 0, False),
    ]
    tokens = [*rows[0]["attempt_token_ids"][:2], rows[1]["attempt_token_ids"][0]]
    assert [row["token_ids"] for row in found.responses] == tokens, "no end is added that was not sampled"
    plain = chat.render(rows[0]["prompt"])
    guided = chat.render(guided_prompt(rows[0]["question"], rows[0]["expert_solution"]))
    assert found.responses[0]["prompt_token_ids"] == plain
    assert found.teacher_prompts[:2] == [guided if name == "guided" else plain] * 2


def test_attempts_too_long_for_training_are_left_out(tmp_path: Path, chat: Chat) -> None:
    rows = write_attempts(tmp_path, chat, num_parts=1)[:1]
    longest = len(chat.render(rows[0]["prompt"])) + len(rows[0]["attempt_token_ids"][1]) - 1
    found = unscored_attempts("part-00000.parquet", rows, chat, chat, experiment(tmp_path, max_length=longest))
    assert [row["index"] for row in found.responses] == [0] and found.too_long == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"attempt_token_ids": None},
            r"the tokens of attempt self/0 are not stored, .* rewrite again with \[rewrite\] keep_attempts = true",
        ),
        ({"prompt": [{"role": "user", "content": "Solve it."}]}, r"was sampled with different \[prompts\]"),
    ],
)
def test_attempts_that_a_teacher_cannot_score_are_refused(
    tmp_path: Path, chat: Chat, changes: Row, message: str
) -> None:
    row = write_attempts(tmp_path, chat, num_parts=1)[0] | changes
    with pytest.raises(InputError, match=message):
        unscored_attempts("part-00000.parquet", [row], chat, chat, experiment(tmp_path))


@pytest.mark.parametrize(
    "section, changes, message",
    [
        ("score", {"teacher": "none"}, r'\[train\] loss: "opd" needs a teacher; set \[score\] teacher = "guided"'),
        ("rewrite", {"keep_attempts": False}, r"stored attempts; set \[rewrite\] keep_attempts = true"),
        ("rewrite", {"stages": ["guided"]}, r"stored attempts; include \"self\" in \[rewrite\] stages"),
        ("train", {"loss": "dft", "examples": "other/rewrite"}, r"own attempts; leave out \[train\] examples"),
    ],
)
def test_a_teacher_without_attempts_is_refused(section: str, changes: Row, message: str) -> None:
    given = experiment(Path("unused"))
    check_teacher_settings(given)
    changed = getattr(given, section).model_copy(update=changes)
    with pytest.raises(InputError, match=message):
        check_teacher_settings(given.model_copy(update={section: changed}))


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"examples": "other/rewrite"}, "examples"),
        ({"select": "first"}, "select"),
        ({"mix": [{"examples": "chats.jsonl", "weight": 1.0}]}, "mix"),
    ],
)
def test_opd_takes_no_examples(settings: Row, named: str) -> None:
    with pytest.raises(
        InputError, match=rf"loss = \"opd\" trains on the scored attempts of this run, .* leave out {named}$"
    ):
        experiment(Path("unused"), **settings)


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "teacher"
    shutil.copytree(POLICY_FOLDER, model)
    check_vocabulary(Run(experiment(tmp_path, str(model))))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["7"], vocabulary["8"] = vocabulary["8"], vocabulary["7"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"\[score\] teacher: .* another vocabulary than playground \(2 of .*'7'"):
        check_vocabulary(Run(experiment(tmp_path, str(model))))


def write_scored(output: Path, num_problems: int) -> Folder:
    """Made-up scores of two attempts at each problem, the second of which is right."""
    rows = [
        {"problem_id": f"problem-{number}", "index": index, "correct": index == 1, "prompt_token_ids": [3, 4]}
        | {"token_ids": [number, index], "reference_logprobs": [-1.0, -2.0], "teacher_logprobs": [-3.0, -4.0]}
        for number in range(num_problems)
        for index in (0, 1)
    ]
    folder = Folder.at(str(output)) / "score"
    folder.write_table("attempts-00000.parquet", ATTEMPT_SCORE_SCHEMA.empty_table().from_pylist(rows))
    return folder


def test_opd_trains_on_all_attempts_and_measures_on_correct_ones(tmp_path: Path, chat: Chat) -> None:
    scores, source = write_scored(tmp_path, 40), Folder.at(str(tmp_path)) / "rewrite"
    data = load_training_examples(source, chat, experiment(tmp_path, holdout=0.3), scores)
    holdout = data.holdout
    assert holdout is not None and 0 < len(holdout) < 40 and len(data.examples) == 2 * (40 - len(holdout))
    sources = [data.examples.source_names[origin] for origin in data.examples.origins]
    assert sorted(set(sources)) == ["correct", "wrong"] and sources.count("correct") == sources.count("wrong")
    assert {holdout.source_names[origin] for origin in holdout.origins} == {"correct"}
    assert not set(holdout.problem_ids) & set(data.examples.problem_ids)
    for examples in (data.examples, holdout):
        assert examples.teacher_logprobs.tolist() == [-3.0, -4.0] * len(examples)
        assert examples.reference_logprobs.tolist() == [-1.0, -2.0] * len(examples)


class FakeScorer:
    """Each token's log p is the length of the model's name minus that of the prompt."""

    num_workers = 1

    def __init__(self, policy: Policy, settings: Train) -> None:
        self.base = len(policy.model)

    def broadcast(self, names: list[str]) -> list[str]:
        return names

    def scores(self, examples: Examples) -> list[TokenScores]:
        lengths = zip(examples.prompt_lengths.tolist(), examples.response_lengths.tolist(), strict=True)
        return [TokenScores([self.base - prompt] * length, [1] * length, [1.0] * length) for prompt, length in lengths]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The worker runs in this process with `FakeScorer`; the names of the parts that it writes."""
    names: list[str] = []

    def write(folder: Folder, name: str, *rest: Any) -> None:
        names.append(name)
        write_counted(folder, name, *rest)

    def run(work: Any, config: Row, *others: Any) -> None:
        names.clear()
        work(config)

    for module in (worker, teacher):
        monkeypatch.setattr(module, "write_counted", write)
    for name, value in {"Scorer": FakeScorer, "ClusterMetrics": Mock(), "check_sees_run": Mock()}.items():
        monkeypatch.setattr(worker, name, value)
    monkeypatch.setattr(worker, "begin_worker", lambda *arguments: 0)
    monkeypatch.setattr(stage, "start_ray", Mock())
    monkeypatch.setattr(stage, "run_group", run)
    return names


def test_a_teacher_is_added_to_complete_scores_and_resumes_part_by_part(
    tmp_path: Path, chat: Chat, written: list[str]
) -> None:
    write_attempts(tmp_path, chat)
    settings, without = experiment(tmp_path), experiment(tmp_path, "none")
    with pytest.raises(InputError, match="no complete scores"):
        train(settings)
    assert "attempts" not in score(without) and written == ["part-00000.parquet", "part-00001.parquet"]
    with pytest.raises(InputError, match=r"no attempts under a teacher.* run `ossft score --teacher guided` first"):
        train(without)
    folder = Folder.at(str(tmp_path)) / "score"
    assert folder.read_table("part-00000.parquet").column_names == SCORE_SCHEMA.names

    manifest = score(settings)
    assert written == ["attempts-00000.parquet", "attempts-00001.parquet"]
    figures = manifest["attempts"]
    assert [figures[name]["responses"] for name in ("correct", "wrong")] == [2, 4] and figures["too_long"] == 0
    assert score(without) == manifest and folder.exists("attempts-00001.parquet"), "these scores are complete as well"

    for name in (MANIFEST, "attempts-00001.parquet"):  # as after a kill
        folder.delete_file(name)
    assert score(settings)["attempts"] | {"seconds": 0} == figures | {"seconds": 0}
    assert written == ["attempts-00001.parquet"]
    finish_stage(Folder.at(str(tmp_path)) / "rewrite", {"rows": "others"}, {"problems": 4})
    score(settings)
    assert written == ["attempts-00000.parquet", "attempts-00001.parquet"], "attempts may be others now"


def test_another_model_scores_the_attempts_under_its_plain_prompt(
    tmp_path: Path, chat: Chat, written: list[str]
) -> None:
    write_attempts(tmp_path, chat)
    shutil.copytree(POLICY_FOLDER, tmp_path / "teacher")
    score(experiment(tmp_path, str(tmp_path / "teacher")))
    for row in (Folder.at(str(tmp_path)) / "score").read_tables(ATTEMPT_PARTS, ATTEMPT_SCORE_SCHEMA).to_pylist():
        prompt, length = len(row["prompt_token_ids"]), len(row["token_ids"])
        assert row["reference_logprobs"] == [len("playground") - prompt] * length
        assert row["teacher_logprobs"] == [len(str(tmp_path / "teacher")) - prompt] * length


@pytest.mark.long
def test_scoring_killed_between_parts_resumes_to_the_same_scores(ray_cluster: None, tmp_path: Path, chat: Chat) -> None:
    quiet, killed, pattern, num_parts = tmp_path / "quiet", tmp_path / "killed", "attempts-*.parquet", 80
    for output in (quiet, killed):
        write_attempts(output, chat, num_parts)
    config = tmp_path / "killed.toml"
    config.write_text(
        f'[run]\noutput = "{killed}"\n[policy]\nmodel = "playground"\n[data]\npath = "unused.jsonl"\n'
        "[rewrite]\nkeep_attempts = true\nguided_alignment = { hide_answer = false }\n"
        '[score]\nteacher = "guided"\n[resources]\nnum_train_workers = 1\n'
        '[train]\nprecision = "fp32"\nmax_length = 512\nloss = "opd"\n'
    )
    before = kill_once_written(config, killed, pattern)
    assert 0 < len(before) < num_parts and not (killed / "score" / MANIFEST).exists()

    seen: list[Row] = []
    figures = [score(experiment(quiet))["attempts"], score(experiment(killed), seen.append)["attempts"]]
    assert seen[-1]["done_before"] == num_parts + len(before), "the attempts come after all other parts"
    assert before.items() <= written_at(killed, pattern).items(), "no part is scored twice"
    tables = [
        (Folder.at(str(output)) / "score").read_tables(ATTEMPT_PARTS, ATTEMPT_SCORE_SCHEMA).to_pylist()
        for output in (quiet, killed)
    ]
    for undisturbed, resumed in zip(*tables, strict=True):
        for name in ("reference_logprobs", "teacher_logprobs"):  # different rows are scored together
            assert resumed.pop(name) == pytest.approx(undisturbed.pop(name), rel=0, abs=1e-5)
        assert resumed == undisturbed
    assert len(tables[0]) == 3 * num_parts
    for name in ("correct", "wrong"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-5)


def logprobs(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    found: list[float] = logits_TV.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
    return found


def test_scores_are_those_of_transformers_and_reach_training(ray_cluster: None, tmp_path: Path, chat: Chat) -> None:
    rows = {row["problem_id"]: row for row in write_attempts(tmp_path, chat)}
    model, settings = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32), experiment(tmp_path)
    figures = score(settings)["attempts"]
    scored = (Folder.at(str(tmp_path)) / "score").read_tables(ATTEMPT_PARTS, ATTEMPT_SCORE_SCHEMA).to_pylist()
    differences, correct = [], []
    for row in scored:
        prompt = guided_prompt(rows[row["problem_id"]]["question"], rows[row["problem_id"]]["expert_solution"])
        for name, read in (("reference", row["prompt_token_ids"]), ("teacher", chat.render(prompt))):
            expected = logprobs(model, read, row["token_ids"])
            assert row[f"{name}_logprobs"] == pytest.approx(expected, rel=0, abs=TOLERANCE)
        pairs = zip(row["reference_logprobs"], row["teacher_logprobs"], strict=True)
        differences += [taught - plain for plain, taught in pairs]
        correct += row["teacher_logprobs"] if row["correct"] else []
    assert len(scored) == 6 and max(map(abs, differences)) > 0.01
    assert figures["correct"]["teacher_mean_logprob"] == pytest.approx(sum(correct) / len(correct))

    train(settings.model_copy(update={"train": settings.train.model_copy(update={"global_batch_size": 6})}))
    step = json.loads((tmp_path / "train/metrics.jsonl").read_text().splitlines()[0])
    clipped = [min(5.0, max(-5.0, value)) for value in differences]
    assert step["coefficient_mean"] == pytest.approx(sum(clipped) / len(clipped), abs=TOLERANCE)
    assert (step["num_tokens"], step["correct/tokens"]) == (len(differences), len(correct))
