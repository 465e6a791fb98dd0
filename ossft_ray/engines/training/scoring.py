"""The policy before training, for the log-probabilities that training sees at its first step.

Runs in each worker of a process group, like the trainer, and with the same forward pass.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.batches import Examples
from ossft_ray.engines.training.deepspeed_engine import check_deepspeed_settings, shard_for_inference, worker_device
from ossft_ray.engines.training.diagnosis import explain_out_of_memory
from ossft_ray.engines.training.forward import PolicyRunner
from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
from ossft_ray.method.coefficients import make_loss


class TokenScores(NamedTuple):
    """The scores of a response: for each token its log p, and its rank and its mass in the policy's distribution.

    The likeliest token has rank 1. The mass is the probability of all less likely tokens and of the token itself.
    """

    logprobs: list[float]
    ranks: list[int]
    masses: list[float]


class Scorer:
    """A loaded policy without an optimizer. Makes collective calls: every worker must call the same, in the same order.

    In ZeRO stage 3 the weights are sharded as they are for training; in other stages each worker holds all of them.
    """

    def __init__(self, policy: Policy, settings: Train) -> None:
        """Load the policy in the training precision; raises InputError and JobError as `Trainer` does."""
        check_deepspeed_settings(settings)
        # new adapters add nothing to the policy before the first step; without a backward pass nothing is recomputed
        bare = settings.model_copy(update={"lora": None, "activation_checkpointing": False})
        with explain_out_of_memory("score", "loading the policy"):
            model, packed = load_model(policy, bare)
            module, device = PolicyLoss(model, make_loss("sft")), worker_device()
            sharded: Any = shard_for_inference(module, settings) if settings.zero_stage == 3 else module.to(device)
        sharded.eval()
        self._runner = PolicyRunner(sharded, device, settings, packed)
        self.num_workers = self._runner.num_workers

    def scores(self, examples: Examples) -> list[TokenScores]:
        """The scores of each example's response tokens, the same on every worker; a collective call."""
        logprobs, ranks, masses = self._runner.token_scores(examples, range(len(examples))).numpy()
        ends = examples.response_offsets[1:-1]
        of_each = (np.split(values, ends) for values in (logprobs, ranks.astype(np.int32), masses))
        return [TokenScores(*(values.tolist() for values in of_one)) for of_one in zip(*of_each, strict=True)]

    def broadcast(self, names: list[str]) -> list[str]:
        """Worker 0's list, on every worker; a collective call."""
        shared = [names]
        torch.distributed.broadcast_object_list(shared, device=torch.device(self._runner.device))
        return shared[0]
