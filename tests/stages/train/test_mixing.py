"""Rows of other sources among the training examples: how many, which, in which metrics, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.engines.token_loss import TokenLosses
from ossft_ray.engines.training.batches import Examples, TokenizedExample, collate
from ossft_ray.engines.training.forward import ForwardOutput
from ossft_ray.engines.training.step_metrics import TokenSums
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.train.stage import _inputs
from ossft_ray.stages.train.training_examples import TrainingExamples, load_training_examples
from ossft_ray.terminal.results import print_training
from tests.stages.rows import write_examples


def settings(output: Path, mix: list[dict[str, Any]], seed: int = 0, **train: Any) -> Experiment:
    return resolve(
        {
            "run": {"output": str(output), "seed": seed},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": {"max_length": 512, "mix": mix} | train,
        }
    )


def load(output: Path, mix: list[dict[str, Any]], **changes: Any) -> TrainingExamples:
    run = Run(settings(output, mix, **changes))
    return load_training_examples(run.folder / "rewrite", run.chat, run.experiment)


def write_chats(path: Path, contents: list[list[tuple[str, str]]]) -> str:
    chats = [[{"role": role, "content": content} for role, content in chat] for chat in contents]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return str(path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A run of 12 examples."""
    write_examples(str(tmp_path / "own"), 12)
    return tmp_path / "own"


@pytest.fixture
def other(tmp_path: Path) -> str:
    """The rewrite folder of another run, of 30 examples."""
    write_examples(str(tmp_path / "other"), 30)
    return str(tmp_path / "other/rewrite")


@pytest.mark.parametrize("weight", [0.1, 0.5, 1.5])
def test_the_weight_counts_response_tokens(own: Path, other: str, weight: float) -> None:
    alone = load(own, []).examples
    own_tokens = int(alone.response_lengths.sum())
    loaded = load(own, [{"examples": other, "weight": weight}])
    (rows,) = loaded.mixed
    longest = max(len(example.response) for example in rows.examples)
    assert weight * own_tokens <= rows.response_tokens + 1 < weight * own_tokens + longest + 1
    assert len(loaded.examples) == 12 + len(rows.examples)
    assert loaded.examples.token_ids[: len(alone.token_ids)].tolist() == alone.token_ids.tolist(), "own rows come first"
    assert [loaded.examples.source_names[index] for index in loaded.examples.origins[12:]] == ["mix_1"] * len(
        rows.examples
    )


def test_which_rows_are_mixed_in_depends_on_the_seed_alone(own: Path, other: str) -> None:
    def chosen(seed: int) -> list[str]:
        (rows,) = load(own, [{"examples": other, "weight": 0.4}], seed=seed).mixed
        return [example.problem_id for example in rows.examples]

    assert chosen(0) == chosen(0) != chosen(1)
    (few,) = load(own, [{"examples": other, "weight": 0.2}]).mixed
    assert [example.problem_id for example in few.examples] == chosen(0)[: len(few.examples)], "more weight only adds"


def test_only_the_last_assistant_message_of_a_chat_is_trained_on(own: Path, tmp_path: Path) -> None:
    system, question, reply = ("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "It is 2.")
    chats = [[question, reply], [system, question, reply, ("user", "And 2 + 2?"), ("assistant", "4.")]]
    unusable = [[question], [question, ("assistant", " ")], [reply]]
    path = write_chats(tmp_path / "chats.jsonl", chats + unusable)
    loaded = load(own, [{"examples": path, "weight": 9.0}])
    (rows,) = loaded.mixed
    chat = Run(settings(own, [])).chat
    as_messages = [[{"role": role, "content": content} for role, content in turns[:-1]] for turns in chats]
    expected = {
        (tuple(chat.render(messages)), tuple(chat.encode_response(turns[-1][1])))
        for messages, turns in zip(as_messages, chats, strict=True)
    }
    assert {(tuple(example.prompt), tuple(example.response)) for example in rows.examples} == expected
    assert rows.num_unusable == len(unusable)
    assert rows.response_tokens < rows.wanted_tokens, "a source with too few tokens gives all its rows, once"


def test_another_runs_rows_of_holdout_problems_are_not_trained_on(own: Path, other: str) -> None:
    loaded = load(own, [{"examples": other, "weight": 9.0}], holdout=0.5)
    assert loaded.holdout is not None
    mixed = {example.problem_id.split("/")[1] for rows in loaded.mixed for example in rows.examples}
    assert len(mixed) > 12 and mixed.isdisjoint(loaded.holdout.problem_ids)


def test_the_trained_model_depends_on_the_mixed_rows_and_their_weights(own: Path, other: str) -> None:
    def inputs(mix: list[dict[str, Any]]) -> Any:
        run = Run(settings(own, mix))
        return _inputs(run, run.folder / "rewrite", None)["train"]

    assert "mix" not in inputs([]), "so trainings of older versions can be resumed"
    first = inputs([{"examples": other, "weight": 0.1}])
    assert first["mix"] != inputs([{"examples": other, "weight": 0.2}])["mix"]
    manifest = Folder.at(other).read_json("manifest.json")
    Folder.at(other).write_json("manifest.json", manifest | {"fingerprint": "of other rows"})
    assert first["mix"] != inputs([{"examples": other, "weight": 0.1}])["mix"]


@pytest.mark.parametrize(
    ("file", "train", "said"),
    [
        ("none.jsonl", {}, r"none.jsonl: no such file"),
        ("empty", {}, r"empty: no complete examples \(no manifest.json\); give a finished run's rewrite folder"),
        ("bad.jsonl", {}, r"bad.jsonl: none of its 1 rows can be used; each needs `messages`"),
        ("good.jsonl", {"loss": "iw_sft"}, r'mixed rows have no scores, which train.loss = "iw_sft" needs'),
    ],
)
def test_an_unusable_source_is_refused(own: Path, tmp_path: Path, file: str, train: dict[str, Any], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"text": "no chat"}\n')
    write_chats(tmp_path / "good.jsonl", [[("user", "1 + 1?"), ("assistant", "2")]])
    with pytest.raises(InputError, match=said):
        load(own, [{"examples": str(tmp_path / file), "weight": 1.0}], **train)


def test_each_source_has_its_own_metrics() -> None:
    """Three tokens of the run's experts with log p = -1, and two of a mixed source with log p = -3."""
    tokens = TokenizedExample("p", [5], [6, 7, 8]), TokenizedExample("mix_1/0", [5], [6, 7], "mix_1")
    examples = Examples.build(tokens)
    tensors = collate(examples, [0, 1], [[0], [1]], packed=False)
    logprob_N = torch.tensor([-1.0] * 3 + [-3.0] * 2)
    ones_N = torch.ones(5)
    sums = TokenSums("cpu", examples.source_names)
    sums.add(ForwardOutput(tensors, TokenLosses(ones_N.sum(), logprob_N, ones_N, ones_N)))
    metrics = sums.metrics()
    assert (metrics["expert/cross_entropy"], metrics["mix_1/cross_entropy"]) == (1.0, 3.0)
    assert (metrics["expert/tokens"], metrics["mix_1/tokens"]) == (3, 2)
    assert metrics["cross_entropy"] == pytest.approx(9 / 5)
    assert not any(name.startswith("self/") for name in metrics)


def test_the_summary_says_what_was_mixed_in(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"name": "mix_1", "source": "chats.jsonl", "examples": 3, "unusable": 2}
    tokens = {"response_tokens": 40, "wanted_tokens": 1000}
    manifest = {"steps": 3, "examples": 6, "too_long": [], "cross_entropy": 0.5, "mix": [rows | tokens]}
    print_training(settings(own, []), manifest, "ossft evaluate")
    said = "mix_1: 3 of these examples, 40 response tokens, of 1,000 wanted, from chats.jsonl; 2 rows could not be used"
    assert said in capsys.readouterr().out
