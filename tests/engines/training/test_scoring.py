"""Scoring without Ray: the values of transformers, however the work is split, and of the trainer's first step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Lora, Policy, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.training.pass_size import PassSize
from ossft_ray.engines.training.scoring import Scorer
from ossft_ray.engines.training.trainer import Trainer
from tests.engines.process_group import join_group, run_in_group

pytestmark = pytest.mark.engine

# differences of log p, in nats, from plain transformers in float32: the largest of a token, and the mean
LARGEST, MEAN = {"fp32": 1e-4, "bf16": 2.0}, {"fp32": 1e-5, "bf16": 0.1}
SETTINGS = Train(loss="iw_sft", global_batch_size=11, max_length=256, precision="fp32", zero_stage=2)
VARIANTS: dict[int, list[dict[str, Any]]] = {  # by number of workers
    1: [
        {"zero_stage": 0, "packing": False, "micro_batch_tokens": 500},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "micro_batch_tokens": 60, "offload": "all"},
        {"zero_stage": 2, "precision": "bf16"},
        {"zero_stage": 2, "lora": Lora(rank=4), "activation_checkpointing": True},
    ],
    2: [{"zero_stage": 2}, {"zero_stage": 3, "packing": False}, {"zero_stage": 3, "precision": "bf16"}],
}


def make_texts() -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(3)
    return tuple([rng.integers(3, 40, int(rng.integers(1, 90))).tolist() for _ in range(21)] for _ in range(2))


def build(references: list[list[float]] | None = None) -> Examples:
    prompts, responses = make_texts()
    names = [f"problem-{index}" for index in range(21)]
    columns = names, prompts, responses, ["expert"] * 21, references or [None] * 21
    return Examples.build(list(map(TokenizedExample, *columns)))


def plain_scores() -> tuple[list[list[float]], list[list[int]], list[list[float]]]:
    """log p, ranks and masses by transformers in float32, one response after the other."""
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER, dtype=torch.float32)
    logprobs, ranks, masses = [], [], []
    for prompt, response in zip(*make_texts(), strict=True):
        with torch.no_grad():
            logprob_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        of_response_T1 = logprob_TV.gather(1, torch.tensor(response)[:, None])
        logprobs.append(of_response_T1[:, 0].tolist())
        ranks.append((1 + (logprob_TV > of_response_T1).sum(-1)).tolist())
        masses.append(logprob_TV.exp().where(logprob_TV <= of_response_T1, 0.0).sum(-1).tolist())
    return logprobs, ranks, masses


def _worker(rank: int, num_workers: int, folder: Path, variants: list[dict[str, Any]]) -> None:
    join_group(rank, num_workers, folder)
    measured = []
    for variant in variants:
        settings, policy = SETTINGS.model_copy(update=variant), Policy(model="playground")
        scorer = Scorer(policy, settings)
        scores = scorer.scores(build())
        logprobs = [of_one.logprobs for of_one in scores]
        assert scorer.broadcast([f"of worker {rank}"]) == ["of worker 0"]
        ranks, masses = [of_one.ranks for of_one in scores], [of_one.masses for of_one in scores]
        measured.append((logprobs, ranks, masses, next(Trainer(policy, settings, 0, build(logprobs)).steps())))
    (folder / f"measured-{rank}.json").write_text(json.dumps(measured))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_scores_are_those_of_transformers_and_of_the_trainers_first_step(num_workers: int, tmp_path: Path) -> None:
    variants = VARIANTS[num_workers]
    run_in_group(_worker, num_workers, num_workers, tmp_path, variants)
    measured = [json.loads((tmp_path / f"measured-{rank}.json").read_text()) for rank in range(num_workers)]
    assert all([scores for *scores, _ in of_one] == [scores for *scores, _ in measured[0]] for of_one in measured)
    plain, plain_ranks, plain_masses = plain_scores()
    for variant, (logprobs, ranks, masses, first_step) in zip(variants, measured[0], strict=True):
        precision = variant.get("precision", "fp32")
        assert [len(of_one) for of_one in logprobs] == [len(of_one) for of_one in plain]
        differences = np.abs(np.concatenate(logprobs) - np.concatenate(plain))
        assert differences.max() < LARGEST[precision] and differences.mean() < MEAN[precision], variant
        assert [len(of_one) for of_one in ranks] == [len(of_one) for of_one in plain]
        same = np.mean(np.concatenate(ranks) == np.concatenate(plain_ranks))
        assert same > (0.99 if precision == "fp32" else 0.5), variant  # near ties may change places
        near = np.abs(np.concatenate(masses) - np.concatenate(plain_masses)) < (1e-3 if precision == "fp32" else 0.05)
        assert near.mean() > (0.99 if precision == "fp32" else 0.8), variant
        # the weight of iw_sft is the mean ratio of a response to what it was before training
        rounding = 1e-6 if precision == "fp32" else 1e-2
        assert first_step["coefficient_mean"] == pytest.approx(1, abs=rounding), variant
        assert first_step["coefficient_variance"] == pytest.approx(0, abs=rounding), variant


class _GrowingSize(PassSize):
    """Passes that grow as on a GPU, which a CPU's never do."""

    def grow(self) -> None:
        self.tokens *= 2


def _growing_worker(rank: int, folder: Path) -> None:
    join_group(rank, 1, folder)
    scorer = Scorer(Policy(model="playground"), SETTINGS)
    once = [of_one.logprobs for of_one in scorer.scores(build())]
    scorer._runner.pass_size = size = _GrowingSize(SETTINGS.model_copy(update={"micro_batch_tokens": 90}), "cpu")
    often = [[of_one.logprobs for of_one in scorer.scores(build())] for _ in range(3)]
    trainer = Trainer(Policy(model="playground"), SETTINGS, 0, build(once))
    trainer._runner.pass_size = fixed = _GrowingSize(SETTINGS, "cpu")
    trainer._runner.logprobs(build(), range(21), trainer.reference)
    torch.save((once, often, size.tokens, fixed.tokens), folder / "measured.pt")
    torch.distributed.destroy_process_group()


def test_passes_of_scoring_grow_by_their_own_memory(tmp_path: Path) -> None:
    run_in_group(_growing_worker, 1, tmp_path)
    once, often, tokens, trainer_tokens = torch.load(tmp_path / "measured.pt", weights_only=True)
    for of_one in often:
        assert np.concatenate(of_one) == pytest.approx(np.concatenate(once), abs=1e-4)
    assert tokens == 90 * 2**3
    assert trainer_tokens == 256, "a pass without gradients says nothing about one with them"
