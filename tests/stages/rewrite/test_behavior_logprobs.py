"""`[rewrite] behavior_logprobs` and the loss `is` that needs them, with real vLLM and the playground's policy."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Response
from ossft_ray.config import Experiment, Policy, resolve
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.attempt_log import AttemptLog
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
from ossft_ray.stages.train.training_examples import load_training_examples
from tests.stages.rows import write_examples
from tests.stages.scripted import experiment as scripted_experiment
from tests.stages.scripted import rows_by_id

TOLERANCE = 1e-3  # nats per token against transformers in float32, because vLLM sums in another order


@pytest.fixture(scope="module")
def rewritten(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    from ossft_ray.stages.rewrite.stage import rewrite

    experiment = scripted_experiment(
        str(tmp_path_factory.mktemp("behavior") / "run"),
        24,
        policy={"dtype": "float32"},
        rewrite={
            "behavior_logprobs": True,
            "self_alignment": {"num_samples": 4, "max_tokens": 96},
            "guided_alignment": {"num_samples": 4, "max_tokens": 96, "temperature": 0.7},
        },
        train={"loss": "is", "precision": "fp32", "global_batch_size": 24, "max_length": 512},
    )
    rewrite(experiment)
    return experiment


def test_logprobs_are_those_of_the_distribution_that_was_sampled(rewritten: Experiment) -> None:
    """log softmax(logits / T) under the stage's prompt: guided rows have the guide in view and T = 0.7."""
    chat = load_chat(rewritten.policy)
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    settings = rewritten.rewrite
    temperatures = {"self": settings.self_alignment.temperature, "guided": settings.guided_alignment.temperature}
    seen = set()
    for (row,) in rows_by_id(rewritten).values():
        seen.add(row["origin"])
        if row["origin"] == "expert":
            assert row["behavior_logprobs"] is None
            continue
        problem = Problem(row["problem_id"], row["question"], row["answer"], row["expert_solution"])
        prompt = chat.render(stage_prompt(row["origin"], problem, settings, rewritten.prompts))
        response = row["response_token_ids"]
        with torch.no_grad():
            logits_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprob_TV = (logits_TV / temperatures[row["origin"]]).log_softmax(-1)
        plain = logprob_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
        assert row["behavior_logprobs"] == pytest.approx(plain, rel=0, abs=TOLERANCE), row["origin"]
    assert seen == {"self", "guided", "expert"}


def test_the_loss_is_trains_on_behavior_logprobs(rewritten: Experiment) -> None:
    """At step 0 the policy is the one that wrote the `self` rows at temperature 1, so their importance ratio is 1."""
    from ossft_ray.stages.train.stage import train

    train(rewritten)
    (line,) = (json.loads(text) for text in Path(rewritten.run.output, "train/metrics.jsonl").read_text().splitlines())
    assert line["self/coefficient_mean"] == pytest.approx(1, abs=TOLERANCE)
    assert line["self/coefficient_variance"] < TOLERANCE
    assert line["expert/coefficient_mean"] == pytest.approx(line["expert/mean_token_probability"])
    assert 0 < line["guided/coefficient_mean"] <= 2


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"origin": "self"},
            r"has no behavior_logprobs, which train\.loss = \"is\" needs; .* behavior_logprobs = true",
        ),
        ({"origin": "guided", "behavior_logprobs": [-0.5]}, "has no behavior_logprobs"),
        (
            {"origin": "self", "policy": "other", "response": "12", "behavior_logprobs": [-1.0, -2.0]}
            | {"response_token_ids": [7, 8]},
            "was written by a policy with another tokenizer",
        ),
    ],
)
def test_responses_without_behavior_logprobs_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rows = write_examples(str(tmp_path), 2, **changes)
    settings = resolve(
        {
            "run": {"output": str(tmp_path)},
            "policy": {"model": "playground"},
            "data": {"path": "unused.jsonl"},
            "train": {"loss": "is"},
        }
    )
    with pytest.raises(InputError, match=rf"part-00000\.parquet: the response of problem {rows[0]['problem_id']} .*"):
        load_training_examples(Folder.at(str(tmp_path / "rewrite")), load_chat(settings.policy), settings)
    with pytest.raises(InputError, match=message):
        load_training_examples(Folder.at(str(tmp_path / "rewrite")), load_chat(settings.policy), settings)


def test_expert_tokens_have_no_behavior_logprobs(tmp_path: Path) -> None:
    write_examples(str(tmp_path), 2)
    settings = scripted_experiment(str(tmp_path), 2, train={"loss": "is"})
    examples = load_training_examples(
        Folder.at(str(tmp_path / "rewrite")), load_chat(Policy(model="playground")), settings
    ).examples
    assert examples.behavior_logprobs is not None and not examples.behavior_logprobs.any()


def test_a_logged_attempt_keeps_its_logprobs(tmp_path: Path) -> None:
    folder, problem = Folder.at(str(tmp_path)), Problem("p", "1+1?", "2", "2")
    response = Response("2", [5, 6], "stop", logprobs=[-0.25, -1.5])
    log = AttemptLog(folder, "part-00000.parquet", "a", keep_texts=False)
    log.end(problem, Attempt("self", 0, True, "correct", "stop", 2, response))
    resumed = AttemptLog(folder, "part-00000.parquet", "b", keep_texts=False)
    assert resumed.attempts(problem)["self", 0].response == response


def test_runs_older_than_the_option_can_be_resumed(tmp_path: Path) -> None:
    plain = rewrite_inputs(Run(scripted_experiment(str(tmp_path / "run"), 2)))
    asked = rewrite_inputs(Run(scripted_experiment(str(tmp_path / "run"), 2, rewrite={"behavior_logprobs": True})))
    assert "behavior_logprobs" not in plain["rewrite"] and asked["rewrite"]["behavior_logprobs"] is True
