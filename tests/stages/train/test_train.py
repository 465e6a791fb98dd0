"""`train` with Ray Train, DeepSpeed and the playground's policy, on rows written by hand."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Response
from ossft_ray.config import Experiment, Policy, resolve
from ossft_ray.distributed.progress import ALREADY_COMPLETE
from ossft_ray.engines.vllm_policy import Sampling, VllmPolicy
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.train.reference_scores import score_folder
from ossft_ray.stages.train.stage import train
from ossft_ray.stages.train.training_examples import TrainingExamples, is_held_out, load_training_examples
from tests.engines.training.plain_training import train_plainly
from tests.stages.rows import write_examples, write_scores

NUM_EXAMPLES = 22  # the last of the batches of 8 is partial


def experiment(output: Path, num_workers: int = 1, **settings: Any) -> Experiment:
    small = {
        "precision": "fp32",
        "global_batch_size": 8,
        "epochs": 2,
        "max_length": 512,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
    }
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": small | settings,
            "resources": {"num_train_workers": num_workers},
        }
    )


def read_metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "train" / "metrics.jsonl").read_text().splitlines()]


def assert_equals_plain_training(output: Path, settings: Experiment) -> None:
    chat = load_chat(settings.policy)
    examples = load_training_examples(Folder.at(str(output / "rewrite")), chat, settings).examples
    expected = train_plainly(settings.train, settings.run.seed, examples)
    measured = read_metrics(output)
    assert [line["step"] for line in measured] == list(range(1, len(expected) + 1))
    for name in ("loss", "cross_entropy", "grad_norm"):
        ours, theirs = ([line[name] for line in curve] for curve in (measured, expected))
        assert ours == pytest.approx(theirs, rel=5e-4), name


def kill_a_train_worker() -> bool:
    """kill -9 of one training worker of the Ray that this process started."""
    for process in psutil.Process().children(recursive=True):
        if process.is_running() and any("RayTrainWorker" in part for part in process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_one_of_them_killed_learn_as_plain_training_does(tmp_path: Path) -> None:
    write_examples(str(tmp_path), NUM_EXAMPLES)
    settings = experiment(tmp_path, num_workers=2, loss="sft", epochs=8, zero_stage=2, packing=True)
    seen: list[int] = []
    killed: list[bool] = []

    def on_progress(metrics: dict[str, Any]) -> None:
        seen.append(metrics["step"])
        if metrics["step"] >= 3 and not killed:
            killed.append(kill_a_train_worker())

    manifest = train(settings, on_progress)
    assert killed == [True]
    assert seen == list(range(1, 25))  # each step reported once, though some were done twice
    assert_equals_plain_training(tmp_path, settings)
    assert manifest["steps"] == 24 and manifest["epochs"] == 8 and manifest["examples"] == NUM_EXAMPLES


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment, dict[str, Any]]:
    output = tmp_path_factory.mktemp("trained")
    write_examples(str(output), NUM_EXAMPLES)
    settings = experiment(output, loss="dft", packing=False, micro_batch_tokens=400, zero_stage=3)
    return output, settings, train(settings)


def test_dft_learns_as_plain_training_does(trained: tuple[Path, Experiment, dict[str, Any]]) -> None:
    output, settings, manifest = trained
    assert_equals_plain_training(output, settings)
    lines = read_metrics(output)
    assert set(lines[0]) >= {
        "step",
        "loss",
        "cross_entropy",
        "learning_rate",
        "tokens_per_second",
        "epoch",
        "grad_norm",
        "mean_token_probability",
        "coefficient_mean",
        "coefficient_variance",
        "effective_sample_size",
        "entropy",
        "padding_share",
        "expert/loss",
    }
    assert manifest["complete"] and manifest["steps"] == 6
    assert manifest["loss"] == lines[-1]["loss"] and manifest["cross_entropy"] == lines[-1]["cross_entropy"]


def test_exported_model_loads_and_keeps_its_stop_tokens(trained: tuple[Path, Experiment, dict[str, Any]]) -> None:
    output, settings, _ = trained
    folder = output / "train" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())  # the tied table once
    assert model.dtype == torch.float32
    assert num_bytes <= (folder / "model.safetensors").stat().st_size < 1.02 * num_bytes
    chat, original = load_chat(Policy(model=str(folder))), load_chat(settings.policy)
    assert model.generation_config.eos_token_id == chat.stop_token_ids == original.stop_token_ids
    messages = [{"role": "user", "content": "1+1?"}]
    assert chat.render(messages) == original.render(messages)
    assert AutoTokenizer.from_pretrained(folder).chat_template == original.tokenizer.chat_template
    before = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype="auto")
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert all(moved)


def test_vllm_writes_what_transformers_writes_with_the_exported_model(
    trained: tuple[Path, Experiment, dict[str, Any]],
) -> None:
    folder = trained[0] / "train" / "model"
    policy = Policy(model=str(folder), dtype="float32")
    chat = load_chat(policy)
    prompts = [chat.render(solve_prompt(row["question"])) for row in training_problems(6, seed=3)]

    async def sample() -> list[Response]:
        engine = VllmPolicy(policy, chat)
        try:
            greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=60)
            return list(await asyncio.gather(*(engine.sample(p, greedy, 0, str(i)) for i, p in enumerate(prompts))))
        finally:
            engine.shutdown()

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = [
        model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=60)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    responses = asyncio.run(sample())
    assert [list(response.token_ids) for response in responses] == expected
    assert any(response.finish_reason == "stop" for response in responses)


def test_complete_output_is_left_alone(trained: tuple[Path, Experiment, dict[str, Any]]) -> None:
    output, settings, manifest = trained
    written = (output / "train" / "manifest.json").stat().st_mtime_ns
    elsewhere = settings.model_copy(
        update={"resources": settings.resources.model_copy(update={"num_train_workers": 2})}
    )
    reports: list[dict[str, Any]] = []
    assert train(elsewhere, reports.append) == manifest
    assert reports == [ALREADY_COMPLETE]
    assert (output / "train" / "manifest.json").stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"train\.loss"):
        train(experiment(output, loss="sft", packing=False))


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_relative_output_is_relative_to_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `make demo`; Ray Train starts its workers in another folder."""
    monkeypatch.chdir(tmp_path)
    write_examples("runs/relative", 8)
    train(experiment(Path("runs/relative"), epochs=1))
    assert list((tmp_path / "runs/relative/train/model").glob("*.safetensors"))
    assert "rank 0 of 1" in (tmp_path / "runs/relative/logs/train-0.log").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_failure_is_one_line_with_the_cause(tmp_path: Path) -> None:
    write_examples(str(tmp_path), NUM_EXAMPLES)
    with pytest.raises(JobError, match=r"the (loss|gradient norm) of step \d+ is (nan|inf); its problems: train-0-"):
        train(experiment(tmp_path, loss="sft", learning_rate=1e36, weight_decay=0.0))
    assert not (tmp_path / "train" / "manifest.json").exists()
    assert all(line["step"] < 6 for line in read_metrics(tmp_path))


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (None, {}, r"rewrite: no complete examples .* run `ossft rewrite` first"),
        (None, {"examples": "nowhere"}, r"nowhere: no complete examples .* \[train\] examples must be"),
        ({"num_rows": 3}, {"max_length": 20}, r"3 examples, all longer than train\.max_length = 20"),
        ({"num_rows": 0}, {}, "it holds no examples"),
        ({"num_rows": 3}, {"loss": "iw_sft"}, r'score: no complete scores .* train\.loss = "iw_sft" .* `ossft score`'),
        ({"num_rows": 3}, {"loss": "dft_k3"}, r'score: no complete scores .* train\.loss = "dft_k3"'),
    ],
)
def test_refusals(tmp_path: Path, make: dict[str, Any] | None, settings: dict[str, Any], message: str) -> None:
    if make is not None:
        write_examples(str(tmp_path), **make)
    with pytest.raises(InputError, match=message):
        train(experiment(tmp_path, **settings))
    assert not (tmp_path / "train").exists(), "corrected settings would be refused as a mismatch"


def test_too_long_examples_are_set_aside_never_cut(tmp_path: Path) -> None:
    rows = write_examples(str(tmp_path), 12)
    settings = experiment(tmp_path)
    chat, folder = load_chat(settings.policy), Folder.at(str(tmp_path / "rewrite"))
    lengths = {row["problem_id"]: len(chat.render(row["prompt"])) + len(row["response_token_ids"]) for row in rows}
    limit = sorted(lengths.values())[7]
    loaded = load_training_examples(folder, chat, experiment(tmp_path, max_length=limit))
    assert loaded.too_long == [name for name, length in lengths.items() if length > limit]
    kept = {name: length for name, length in lengths.items() if length <= limit}
    assert dict(zip(loaded.examples.problem_ids, loaded.examples.lengths.tolist(), strict=True)) == kept


@pytest.mark.parametrize(
    "changes, num_reencoded, ids",
    [
        (
            {"response": "12", "response_token_ids": [7, 8, 9]},
            0,
            [7, 8, 9],
        ),  # on-policy: as sampled, whatever it decodes to
        ({"policy": "other", "response": "12"}, 3, "12"),  # ids that decode to another response: another tokenizer
        ({"policy": "other"}, 0, None),  # another policy with the same tokenizer
    ],
)
def test_responses_are_encoded_again_only_if_another_tokenizer_wrote_them(
    tmp_path: Path, changes: dict[str, Any], num_reencoded: int, ids: Any
) -> None:
    rows = write_examples(str(tmp_path), 3, **changes)
    settings = experiment(tmp_path)
    chat = load_chat(settings.policy)
    loaded = load_training_examples(Folder.at(str(tmp_path / "rewrite")), chat, settings)
    examples = loaded.examples
    assert loaded.num_reencoded == num_reencoded
    for index, row in enumerate(rows):
        expected = row["response_token_ids"] if ids is None else chat.encode_response(ids) if ids == "12" else ids
        tokens = examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]].tolist()
        assert tokens == chat.render(row["prompt"]) + expected


def load_with_references(output: Path, settings: Experiment) -> TrainingExamples:
    source = Folder.at(str(output / "rewrite"))
    return load_training_examples(source, load_chat(settings.policy), settings, score_folder(Run(settings), source))


def test_reference_logprobs_are_those_of_the_kept_response(tmp_path: Path) -> None:
    rows = write_examples(str(tmp_path), 3)
    by_problem = write_scores(str(tmp_path), rows)
    settings = experiment(tmp_path, loss="iw_sft")
    examples = load_with_references(tmp_path, settings).examples
    expected = [value for name in examples.problem_ids for value in by_problem[name]]
    assert examples.reference_logprobs.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("changes", [{"token_ids": [5, 6]}, {"reference_logprobs": [-1.0]}, {"problem_id": "other"}])
def test_a_response_that_was_not_scored_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = write_examples(str(tmp_path), 2)
    write_scores(str(tmp_path), rows, **changes)
    settings = experiment(tmp_path, loss="iw_sft")
    with pytest.raises(
        InputError, match=rf"score: .* of problem {rows[0]['problem_id']} as it is .*`ossft score --start-over`"
    ):
        load_with_references(tmp_path, settings)


@pytest.mark.usefixtures("ray_cluster")
def test_adapters_are_exported_merged_from_the_best_checkpoint(tmp_path: Path) -> None:
    write_examples(str(tmp_path), NUM_EXAMPLES)
    settings = experiment(
        tmp_path, loss="dft", zero_stage=3, epochs=3, learning_rate=0.02, holdout=0.3, keep="best", lora={"rank": 4},
        warmup_ratio=0.0, weight_decay=0.0,
    )  # fmt: skip
    manifest = train(settings)
    measured = {
        line["step"]: line["holdout_cross_entropy"] for line in read_metrics(tmp_path) if "holdout_loss" in line
    }
    best = min(measured, key=lambda step: measured[step])
    assert manifest["kept_step"] == best < max(measured), f"DFT lets the cross-entropy rise: {measured}"
    assert 0 < manifest["holdout_examples"] < NUM_EXAMPLES
    assert manifest["examples"] + manifest["holdout_examples"] == NUM_EXAMPLES

    folder = tmp_path / "train" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    before = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype="auto")
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in before.named_parameters()]
    changed = {
        name.rpartition(".")[0].rpartition(".")[2]
        for (name, a), b in zip(model.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

    # the exported weights are those that were measured at that step
    chat = load_chat(settings.policy)
    holdout = load_training_examples(Folder.at(str(tmp_path / "rewrite")), chat, settings).holdout
    assert holdout is not None
    total = 0.0
    for index in range(len(holdout)):
        tokens = torch.from_numpy(holdout.token_ids[holdout.offsets[index] : holdout.offsets[index + 1]]).long()
        prompt = int(holdout.prompt_lengths[index])
        with torch.no_grad():
            logprob_TV = model(tokens[None]).logits[0, prompt - 1 : -1].log_softmax(-1)
        total -= logprob_TV.gather(1, tokens[prompt:, None]).sum().item()
    assert total / holdout.response_lengths.sum() == pytest.approx(measured[best], rel=1e-3)


def test_the_holdout_is_chosen_by_problem_and_stays_as_data_grows() -> None:
    ids = [f"problem-{index}" for index in range(2000)]
    held_out = {name for name in ids if is_held_out(name, 0.02, 0)}
    assert 20 < len(held_out) < 70
    assert not {name for name in ids if is_held_out(name, 0.0, 0)}
    assert held_out <= {name for name in ids if is_held_out(name, 0.1, 0)}
    assert held_out != {name for name in ids if is_held_out(name, 0.02, 1)}


def test_best_without_a_holdout_is_refused(tmp_path: Path) -> None:
    write_examples(str(tmp_path), 3)
    with pytest.raises(InputError, match=r'train\.keep = "best" needs problems .* train\.holdout = 1e-09'):
        train(experiment(tmp_path, keep="best", holdout=1e-9))
