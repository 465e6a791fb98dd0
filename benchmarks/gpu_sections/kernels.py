"""Attention's gradients against float32, and the loss kernel line by line, against plain PyTorch and Liger."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from gpu_sections.shapes import DEVICE, ON_GPU, milliseconds, peak_gib
from torch import Tensor

from ossft_ray.engines import token_loss as loss_module
from ossft_ray.engines.packed_attention import packed_attention
from ossft_ray.engines.token_loss import token_loss
from ossft_ray.method.coefficients import make_loss

Row = dict[str, Any]
_DTYPE = torch.bfloat16 if ON_GPU else torch.float32
HEADS = ((28, 4, 128), (12, 2, 128), (14, 2, 64))  # Qwen2.5 7B, 1.5B and 0.5B: query heads, key heads, their size
LENGTHS = (1, 700, 64, 1283)


def attention(tiny: bool) -> Iterator[Row]:
    """The output and the gradients of packed attention in half precision, against float32, by relative norm."""
    lengths = LENGTHS[:3:2] if tiny else LENGTHS
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=DEVICE)
    for heads, key_heads, size in HEADS:
        torch.manual_seed(heads)
        tensors = [torch.randn(1, each, sum(lengths), size, device=DEVICE) for each in (heads, key_heads, key_heads)]
        weight = torch.randn(1, sum(lengths), heads, size, device=DEVICE)
        found, expected = (_with_gradients(tensors, weight, offsets, max(lengths), dtype) for dtype in (_DTYPE, None))
        errors = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]
        names = ("output", "query gradient", "key gradient", "value gradient")
        yield {
            "heads": f"{heads}/{key_heads}",
            **{name: f"{error:.1e}" for name, error in zip(names, errors, strict=True)},
        }


def _with_gradients(
    tensors: list[Tensor], weight: Tensor, offsets: Tensor, longest: int, dtype: torch.dtype | None
) -> list[Tensor]:
    rounded = [tensor.to(_DTYPE) for tensor in tensors]  # both see the same inputs
    inputs = [tensor.to(dtype or torch.float32).requires_grad_() for tensor in rounded]
    output, _ = packed_attention(torch.nn.Module(), *inputs, None, cu_seqlens=offsets, max_seqlen=longest)
    return [output.detach(), *torch.autograd.grad((output * weight.to(output.dtype)).sum(), inputs)]


def loss(tiny: bool) -> Iterator[Row]:
    """Milliseconds and memory of the loss with its gradients; the last column is the ratio to three bare products."""
    sizes = ((64, 500),) if tiny else ((1536, 151_936), (3584, 152_064))
    num_tokens = 64 if tiny else 8192
    for width, vocabulary in sizes:
        torch.manual_seed(0)
        hidden_NC = torch.randn(num_tokens, width, device=DEVICE, dtype=_DTYPE).requires_grad_()
        head_VC = (torch.randn(vocabulary, width, device=DEVICE, dtype=_DTYPE) / math.sqrt(width)).requires_grad_()
        targets_N = torch.randint(vocabulary, (num_tokens,), device=DEVICE)
        where = {"width": width, "tokens": num_tokens}
        bare = _bare_products(hidden_NC.detach(), head_VC.detach())
        yield where | {"what": "three bare products", "ms": round(bare, 2)}
        for elements in (27, 28, 29):
            chunk = max(1, 2**elements // vocabulary)
            run = partial(_ours, hidden_NC, head_VC, targets_N, chunk)
            yield where | {"what": f"ours, {chunk} tokens a chunk", **_cost(run, bare)}
        yield from (where | row for row in _lines(hidden_NC.detach(), head_VC.detach(), targets_N))
        for name, run in (("plain PyTorch", _plain), ("Liger's fused cross-entropy", _liger)):
            try:
                yield where | {"what": name, **_cost(partial(run, hidden_NC, head_VC, targets_N), bare)}
            except (RuntimeError, ImportError) as error:
                yield where | {"what": f"{name}: {str(error).splitlines()[0][:60]}"}
        yield where | _errors(hidden_NC, head_VC, targets_N)


def _cost(run: Any, bare: float) -> Row:
    memory, time = peak_gib(run), milliseconds(run)
    return {"ms": round(time, 2), "GiB": round(memory, 2), "ratio": round(time / bare, 2)}


def _bare_products(hidden_NC: Tensor, head_VC: Tensor) -> float:
    logits_NV = torch.empty(len(hidden_NC), len(head_VC), device=DEVICE, dtype=_DTYPE)

    def run() -> None:
        torch.mm(hidden_NC, head_VC.T, out=logits_NV)
        logits_NV @ head_VC
        logits_NV.T @ hidden_NC

    return milliseconds(run)


def _ours(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, chunk: int) -> None:
    hidden_NC.grad = head_VC.grad = None
    token_loss(hidden_NC, head_VC, targets_N, make_loss("dft"), chunk_tokens=chunk).loss.backward()


def _plain(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor) -> None:
    hidden_NC.grad = head_VC.grad = None
    logprob_N = (hidden_NC @ head_VC.T).float().log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    (-(logprob_N.detach().exp() * logprob_N).sum()).backward()


def _liger(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor) -> None:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden_NC.grad = head_VC.grad = None
    LigerFusedLinearCrossEntropyLoss()(head_VC, hidden_NC, targets_N).backward()


def _lines(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor) -> Iterator[Row]:
    """The kernel's lines, on one chunk."""
    if not ON_GPU:
        return
    from ossft_ray.engines import softmax_kernel

    rows = min(len(hidden_NC), loss_module.CHUNK_ELEMENTS["cuda"] // len(head_VC))
    hidden_TC, targets_T = hidden_NC[:rows], targets_N[:rows]
    logits_TV = torch.empty(rows, len(head_VC), device=DEVICE)
    gradient_TV = torch.empty(rows, len(head_VC), device=DEVICE, dtype=_DTYPE)
    sum_VC = torch.zeros(head_VC.shape, device=DEVICE)
    yield {"what": f"chunk of {rows}: logits in bf16", "ms": round(milliseconds(lambda: hidden_TC @ head_VC.T), 3)}
    product = partial(torch.mm, hidden_TC, head_VC.T, out_dtype=torch.float32, out=logits_TV)
    yield {"what": f"chunk of {rows}: logits in fp32", "ms": round(milliseconds(product), 3)}
    settings = softmax_kernel._BLOCK, softmax_kernel._NUM_WARPS
    for block, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 8), (4096, 16), (8192, 16)):
        softmax_kernel._BLOCK, softmax_kernel._NUM_WARPS = block, warps
        kernel = partial(softmax_kernel.softmax_statistics, logits_TV, targets_T, gradient_TV)
        yield {"what": f"chunk of {rows}: softmax, block {block}, {warps} warps", "ms": round(milliseconds(kernel), 3)}
    softmax_kernel._BLOCK, softmax_kernel._NUM_WARPS = settings
    yield {"what": f"chunk of {rows}: hidden's gradient", "ms": round(milliseconds(lambda: gradient_TV @ head_VC), 3)}
    add = partial(torch.addmm, sum_VC, gradient_TV.T, hidden_TC, out_dtype=torch.float32, out=sum_VC)
    yield {"what": f"chunk of {rows}: head's gradient, added in fp32", "ms": round(milliseconds(add), 3)}
    separate = lambda: sum_VC.add_(gradient_TV.T @ hidden_TC)  # noqa: E731
    yield {"what": f"chunk of {rows}: head's gradient, then added", "ms": round(milliseconds(separate), 3)}


def _errors(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor) -> Row:
    """Errors of log p and of the gradients, by relative norm, against plain PyTorch in float32 on the same numbers."""
    some = slice(0, 2048)  # two chunks on a GPU
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (hidden_NC[some], head_VC)]
    found = token_loss(*inputs, targets_N[some], make_loss("dft"))
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    logprob_N = (wide[0] @ wide[1].T).log_softmax(-1).gather(1, targets_N[some, None])[:, 0]
    pairs = zip(
        torch.autograd.grad(found.loss / found.loss.detach(), inputs),
        torch.autograd.grad((logprob_N.detach().exp() * logprob_N).sum() / -found.loss.detach(), wide),
        strict=True,
    )
    of_hidden, of_head = (((ours.float() - plain).norm() / plain.norm()).item() for ours, plain in pairs)
    of_logprob = (found.logprob_N - logprob_N).abs().max().item()
    errors = {"log p, nats": of_logprob, "hidden's gradient": of_hidden, "head's gradient": of_head}
    return {"what": "errors", **{name: f"{error:.1e}" for name, error in errors.items()}}
