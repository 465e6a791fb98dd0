"""`ossft selftest`: prove on this machine, in minutes, that training the tiny policy does what it should.

Each check runs in a separate process, because one may leave a GPU, a process group or an engine behind:
`python -m ossft_ray.stages.selftest NAME`.
"""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ossft_ray.config import Policy, Train
from ossft_ray.engines.packed_attention import packed_attention
from ossft_ray.engines.token_loss import LossInputs
from ossft_ray.engines.training.batches import Examples, TokenizedExample, collate
from ossft_ray.engines.training.policy_model import PolicyLoss, load_model
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.method.coefficients import make_loss
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import model_path
from ossft_ray.stages.install_check import Finding

_POLICY = Policy(model="playground", dtype="float32")
_LENGTHS = [(9, 40), (3, 1), (30, 75), (12, 22), (5, 5), (21, 60)]  # prompt and response, in tokens
_EVERYTHING = list(range(len(_LENGTHS)))
_ON_GPU = torch.cuda.is_available()
_DEVICE = torch.device("cuda" if _ON_GPU else "cpu")
_RESULT = "selftest result: "  # before it, libraries may print other lines


def selftest() -> Iterator[Finding]:
    """Run all checks, one after the other."""
    for name in CHECKS:
        if name == flash_attention_is_used.__name__ and not _ON_GPU:
            yield Finding(name, None, "no GPU here")
            continue
        command = [sys.executable, "-m", "ossft_ray.stages.selftest", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
        results = [line.removeprefix(_RESULT) for line in done.stdout.splitlines() if line.startswith(_RESULT)]
        reason = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        passed = done.returncode == 0 and bool(results)
        yield Finding(name, passed, results[-1] if passed else reason.removeprefix("AssertionError: "))


def packed_equals_unpacked() -> str:
    """Examples in one row do not see each other."""
    details = []
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 0.15)):
        packed, alone = (_logprobs(precision, packing) for packing in (True, False))
        difference = (packed - alone).abs().max().item()
        assert difference < tolerance, f"{precision}: log-probabilities differ by {difference:.2g}"
        details.append(f"{precision}: {difference:.1g}")
    return f"largest difference of a log-probability: {', '.join(details)}"


def weight_is_applied() -> str:
    """The DFT gradient equals that of the plainly written loss, and differs from that of cross-entropy."""
    examples = _examples()
    gradients = {}
    for name in ("dft", "sft"):
        module, packed = _policy_loss(name, "fp32", packing=True)
        module(collate(examples, _EVERYTHING, [_EVERYTHING], packed).to(_DEVICE), LossInputs()).loss.backward()
        gradients[name] = _gradient(module)
    plain = _plain_dft_gradient(examples)
    right, wrong = (((gradients[name] - plain).norm() / plain.norm()).item() for name in ("dft", "sft"))
    assert right < 1e-3 < wrong, f"relative difference to the plain gradient: {right:.2g}, unweighted {wrong:.2g}"
    return f"relative difference to the plain gradient {right:.1g} (without the weight {wrong:.1f})"


def zero_3_trains() -> str:
    """ZeRO stage 3 learns what stage 0 learns."""
    backend = "nccl" if _ON_GPU else "gloo"
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if backend == "gloo":
        os.environ["DS_ACCELERATOR"] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        settings = Train(loss="dft", precision="fp32", global_batch_size=3, epochs=3, learning_rate=1e-3)
        stages = [settings.model_copy(update={"zero_stage": stage}) for stage in (0, 3)]
        curves = [[step["loss"] for step in Trainer(_POLICY, each, 0, _examples()).steps()] for each in stages]
        torch.distributed.destroy_process_group()
    difference = max(abs(sharded / plain - 1) for plain, sharded in zip(*curves, strict=True))
    assert difference < 1e-3, f"losses differ by {difference:.2g}: {curves}"
    return f"six steps, largest relative difference of a loss to stage 0: {difference:.1g}"


def vllm_agrees_with_the_trainer() -> str:
    """vLLM and the trainer compute the same log-probabilities, so the data stays on-policy."""
    from ossft_ray.engines.vllm_policy import prompt_logprobs

    examples, ours = _examples(), _logprobs("fp32", packing=True)
    ends = zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    found = prompt_logprobs(_POLICY, load_chat(_POLICY), [examples.token_ids[a:b].tolist() for a, b in ends])
    pairs = zip(found, examples.prompt_lengths, strict=True)
    theirs = torch.tensor([value for of_row, prompt_length in pairs for value in of_row[prompt_length - 1 :]])
    difference = (ours - theirs).abs().max().item()
    tolerance = 0.05 if _ON_GPU else 1e-3  # GPUs multiply float32 matrices in a shorter format
    assert difference < tolerance, f"log-probabilities differ by {difference:.2g}"
    return f"largest difference of a log-probability: {difference:.1g}"


def flash_attention_is_used() -> str:
    """On a GPU in half precision, packed rows go through PyTorch's variable-length FlashAttention, gradients too."""
    cu_seqlens = torch.tensor([0, 100, 180, 300], dtype=torch.int32, device="cuda")
    largest = 0.0
    for heads, key_heads in ((28, 4), (12, 2), (8, 8)):  # Qwen2.5 7B and 1.5B, and heads without groups
        shapes = [(1, each, 300, 128) for each in (heads, key_heads, key_heads)]
        inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
        weight = torch.randn(1, 300, heads, 128, device="cuda")
        found, expected = (_attention_and_gradients(inputs, weight, cu_seqlens, dtype) for dtype in (None, torch.float))
        for ours, plain in zip(found, expected, strict=True):
            largest = max(largest, ((ours.float() - plain).norm() / plain.norm()).item())
    assert largest < 0.01, f"differs from plain attention by {largest:.2g} of its norm"
    return f"largest relative difference to plain attention in float32, gradients included: {largest:.1g}"


def _attention_and_gradients(
    inputs: list[Tensor], weight: Tensor, cu_seqlens: Tensor, dtype: torch.dtype | None
) -> list[Tensor]:
    query, key, value = (tensor.to(dtype or tensor.dtype).requires_grad_() for tensor in inputs)
    output, _ = packed_attention(torch.nn.Module(), query, key, value, None, cu_seqlens=cu_seqlens, max_seqlen=120)
    return [output.detach(), *torch.autograd.grad((output * weight.to(output.dtype)).sum(), (query, key, value))]


CHECKS: dict[str, Callable[[], str]] = {
    check.__name__: check
    for check in (
        packed_equals_unpacked, weight_is_applied, zero_3_trains, vllm_agrees_with_the_trainer, flash_attention_is_used
    )
}  # fmt: skip


def _examples() -> Examples:
    rng = random.Random(0)
    prompts, responses = ([[rng.randrange(3, 200) for _ in range(pair[part])] for pair in _LENGTHS] for part in (0, 1))
    return Examples.build(list(map(TokenizedExample, map(str, _EVERYTHING), prompts, responses)))


def _policy_loss(loss: str, precision: Literal["bf16", "fp32"], packing: bool) -> tuple[PolicyLoss, bool]:
    model, packed = load_model(_POLICY, Train(precision=precision, packing=packing))
    return PolicyLoss(model, make_loss(loss)).to(_DEVICE), packed


@torch.no_grad()
def _logprobs(precision: Any, packing: bool) -> Tensor:
    """log p of all response tokens, in the order of the examples."""
    module, packed = _policy_loss("sft", precision, packing)
    batches = [[_EVERYTHING]] if packing else [[[index]] for index in _EVERYTHING]
    tensors = [collate(_examples(), _EVERYTHING, rows, packed).to(_DEVICE) for rows in batches]
    return torch.cat([module(each, LossInputs()).logprob_N for each in tensors]).float().cpu()


def _gradient(module: torch.nn.Module) -> Tensor:
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.cat([grad.flatten().cpu() for grad in grads])


def _plain_dft_gradient(examples: Examples) -> Tensor:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(model_path(_POLICY.model), dtype=torch.float32).to(_DEVICE)
    for index in range(len(examples)):
        tokens = torch.from_numpy(examples.token_ids[examples.offsets[index] : examples.offsets[index + 1]]).long()
        prompt_length = int(examples.prompt_lengths[index])
        logits_TV = model(tokens[None].to(_DEVICE)).logits[0, prompt_length - 1 : -1]
        logprob_T = logits_TV.log_softmax(-1).gather(1, tokens[prompt_length:, None].to(_DEVICE))[:, 0]
        (-(logprob_T.detach().exp() * logprob_T).sum()).backward()
    return _gradient(model)


if __name__ == "__main__":
    print(f"\n{_RESULT}{CHECKS[sys.argv[1]]()}", flush=True)
