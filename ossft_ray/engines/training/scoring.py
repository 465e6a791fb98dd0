"""The policy as it is before training, for the log-probabilities that training will see at its first step.

Runs in each worker of a process group, as the trainer does, and by the same forward pass.
"""

from typing import Any

import numpy as np
import torch

from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.batches import Examples
from ossft_ray.engines.training.deepspeed_engine import own_device, shard_for_inference
from ossft_ray.engines.training.forward import deal, forward
from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
from ossft_ray.method.coefficients import make_loss


class Scorer:
    """A loaded policy without an optimizer. Makes collective calls: every worker must call the same, in the same order.

    In ZeRO stage 3 the weights are sharded as they are for training; in the others each worker holds all of them.
    """

    def __init__(self, policy: Policy, settings: Train) -> None:
        """Load the policy in the training precision.

        Raises:
            InputError: see `load_model` and `deepspeed_config`.
        """
        self.settings = settings
        self.rank, self.num_workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        # new adapters add nothing to the policy before the first step; without a backward pass nothing is recomputed
        bare = settings.model_copy(update={"lora": None, "activation_checkpointing": False})
        model, self._flat = load_model(policy, bare)
        module = PolicyLoss(model, make_loss("sft"))
        self.device = own_device()
        is_sharded = settings.zero_stage == 3
        self._module: Any = (
            shard_for_inference(module, settings, self.num_workers) if is_sharded else module.to(self.device)
        )
        self._module.eval()

    @torch.no_grad()
    def logprobs(self, examples: Examples) -> list[list[float]]:
        """log p of each example's response tokens, in float32, the same on every worker; a collective call."""
        batch = list(range(len(examples)))
        offsets = examples.response_offsets
        logprobs = torch.zeros(int(offsets[-1]))
        for rows in deal(self.settings, examples, batch, self.num_workers, self._flat)[self.rank]:
            done = forward(self._module, self.device, examples, batch, rows, self._flat)
            logprobs[done.tensors.places_N.cpu()] = done.logprob_N.float().cpu()
        shared = logprobs.to(self.device)
        torch.distributed.all_reduce(shared)  # each token is one worker's; the others hold a zero
        return [of_one.tolist() for of_one in np.split(shared.cpu().numpy(), offsets[1:-1])]

    def agree(self, names: list[str]) -> list[str]:
        """Worker 0's list, on every worker; a collective call."""
        shared = [names]
        torch.distributed.broadcast_object_list(shared, device=torch.device(self.device))
        return shared[0]
