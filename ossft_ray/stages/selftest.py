"""`ossft selftest`: does training do here what it should? Proved on this machine, in minutes, with the tiny policy.

Each check is a process of its own, since one may leave a GPU, a process group or an engine behind:
`python -m ossft_ray.stages.selftest NAME` prints one line of JSON.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.batches import Examples, collate
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.location import model_path

_POLICY = Policy(model="playground", dtype="float32")
_LENGTHS = [(9, 40), (3, 1), (30, 75), (12, 22), (5, 5), (21, 60)]  # prompt and response, in tokens


@dataclass(frozen=True)
class Finding:
    """What a check came to; `passed` is None where this machine cannot be asked."""

    name: str
    passed: bool | None
    detail: str


class Skip(Exception):
    """A check that does not apply to this machine; says why."""


def selftest() -> Iterator[Finding]:
    """Run all checks, one after the other."""
    for name in CHECKS:
        command = [sys.executable, "-m", "ossft_ray.stages.selftest", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"passed"')]
        if done.returncode or not lines:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            yield Finding(name, False, f"ended with {done.returncode}: {reason}")
        else:
            yield Finding(name, **json.loads(lines[-1]))


def _examples() -> Examples:
    rng = random.Random(0)
    prompts, responses = ([[rng.randrange(3, 200) for _ in range(pair[part])] for pair in _LENGTHS] for part in (0, 1))
    return Examples.build([str(index) for index in range(len(_LENGTHS))], prompts, responses)


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _logprobs(precision: Any, packed: bool, device: Any) -> Any:
    """log p of all response tokens, in the order of the examples."""
    import torch

    from ossft_ray.engines.token_loss import Context
    from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
    from ossft_ray.method.coefficients import make_loss

    model, flat = load_model(_POLICY, Train(precision=precision, packing=packed))
    module, examples = PolicyLoss(model, make_loss("sft")).to(device), _examples()
    everything = list(range(len(examples)))
    rows = [[everything]] if packed else [[[index]] for index in everything]
    with torch.no_grad():
        parts = [module(collate(examples, everything, row, flat).to(device), Context())[1] for row in rows]
    return torch.cat(parts).float().cpu()


def packed_equals_unpacked() -> str:
    """Examples in one row do not see each other."""
    device = _device()
    details = []
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 0.15)):
        packed, alone = (_logprobs(precision, packed, device) for packed in (True, False))
        difference = (packed - alone).abs().max().item()
        assert difference < tolerance, f"{precision}: log-probabilities differ by {difference:.2g}"
        details.append(f"{precision}: {difference:.1g}")
    return f"largest difference of a log-probability: {', '.join(details)}"


def weight_is_applied() -> str:
    """The DFT gradient is that of the plainly written loss, and not that of cross-entropy."""
    import torch

    from ossft_ray.engines.token_loss import Context
    from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
    from ossft_ray.method.coefficients import make_loss

    device, examples = _device(), _examples()
    everything = list(range(len(examples)))
    gradients = {}
    for name in ("dft", "sft"):
        model, flat = load_model(_POLICY, Train(precision="fp32"))
        module = PolicyLoss(model, make_loss(name)).to(device)
        module(collate(examples, everything, [everything], flat).to(device), Context())[0].backward()
        gradients[name] = torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])
    plain = _plain_dft_gradient(examples, device)
    right = ((gradients["dft"] - plain).norm() / plain.norm()).item()
    wrong = ((gradients["sft"] - plain).norm() / plain.norm()).item()
    assert right < 1e-3 < wrong, f"relative difference to the plain gradient: {right:.2g}, unweighted {wrong:.2g}"
    return f"relative difference to the plain gradient {right:.1g} (without the weight {wrong:.1f})"


def _plain_dft_gradient(examples: Examples, device: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path(_POLICY.model), dtype=torch.float32).to(device)
    for index in range(len(examples)):
        tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
        prompt = int(examples.prompt_lengths[index])
        logits_TV = model(tokens[None].to(device)).logits[0, prompt - 1 : -1]
        logprob_T = logits_TV.log_softmax(-1).gather(1, tokens[prompt:, None].to(device))[:, 0]
        (-(logprob_T.detach().exp() * logprob_T).sum()).backward()
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters()])


def zero_3_trains() -> str:
    """ZeRO stage 3 learns what stage 0 learns."""
    import torch

    from ossft_ray.engines.training.deepspeed_engine import Trainer

    device = _device()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        curves = []
        for stage in (0, 3):
            settings = Train(
                loss="dft", zero_stage=stage, precision="fp32", global_batch_size=3, epochs=3, learning_rate=1e-3
            )
            curves.append([step["loss"] for step in Trainer(_POLICY, settings, 0, _examples()).steps()])
        torch.distributed.destroy_process_group()
    difference = max(abs(mine / plain - 1) for plain, mine in zip(*curves, strict=True))
    assert difference < 1e-3, f"losses differ by {difference:.2g}: {curves}"
    return f"six steps, largest relative difference of a loss to stage 0: {difference:.1g}"


def vllm_agrees_with_the_trainer() -> str:
    """What vLLM thinks of a response, the trainer thinks too: the data stays on-policy."""
    import torch

    from ossft_ray.engines.vllm_policy import prompt_logprobs

    examples = _examples()
    rows = [
        examples.token_ids[start:end].tolist()
        for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    ]
    ours = _logprobs("fp32", True, _device())
    found = prompt_logprobs(_POLICY, load_chat(_POLICY), rows)
    theirs = torch.tensor(
        [value for of_row, prompt in zip(found, examples.prompt_lengths, strict=True) for value in of_row[prompt - 1 :]]
    )
    difference = (ours - theirs).abs().max().item()
    tolerance = 0.05 if _device().type == "cuda" else 1e-3  # GPUs multiply float32 matrices in shorter numbers
    assert difference < tolerance, f"log-probabilities differ by {difference:.2g}"
    return f"largest difference of a log-probability: {difference:.1g}"


def flash_attention_is_used() -> str:
    """On a GPU in half precision, packed rows go through PyTorch's variable-length FlashAttention."""
    import torch

    from ossft_ray.engines.packed_attention import packed_attention

    if not torch.cuda.is_available():
        raise Skip("no GPU here")
    query = torch.randn(1, 8, 300, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    key = torch.randn(1, 2, 300, 64, device="cuda", dtype=torch.bfloat16)
    boundaries = torch.tensor([0, 100, 180, 300], dtype=torch.int32, device="cuda")
    fast = packed_attention(torch.nn.Module(), query, key, key, None, boundaries=boundaries, longest=120)[0]
    slow = packed_attention(
        torch.nn.Module(), query.float(), key.float(), key.float(), None, boundaries=boundaries, longest=120
    )[0]
    difference = (fast.float() - slow).abs().max().item()
    fast.sum().backward()
    assert difference < 0.05 and query.grad is not None, f"differs from plain attention by {difference:.2g}"
    return f"largest difference to plain attention in float32: {difference:.1g}"


CHECKS: dict[str, Callable[[], str]] = {
    check.__name__: check
    for check in (
        packed_equals_unpacked,
        weight_is_applied,
        zero_3_trains,
        vllm_agrees_with_the_trainer,
        flash_attention_is_used,
    )
}


def _main(name: str) -> None:
    passed: bool | None
    try:
        passed, detail = True, CHECKS[name]()
    except AssertionError as error:
        passed, detail = False, str(error)
    except Skip as reason:
        passed, detail = None, str(reason)
    print("\n" + json.dumps({"passed": passed, "detail": detail}), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
