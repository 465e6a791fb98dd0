"""Figures of a step's response tokens: sums that workers add up, and their means.

Every figure is over the response tokens of the whole global batch, weighted as in the loss, and again for each origin
or source among them.
"""

from collections.abc import Sequence

import torch

from ossft_ray.common.types import ORIGINS
from ossft_ray.engines.training.forward import ForwardOutput

_SUMS = ("tokens", "weight", "loss", "nll", "p", "p_squared", "c", "c_squared", "entropy")


class TokenSums:
    """Sums over tokens by origin, in float64; those of this worker until `reduce`."""

    def __init__(self, device: torch.device | str, source_names: Sequence[str] = ORIGINS) -> None:
        """`source_names` are those of the examples."""
        self._names = source_names
        self._sums = torch.zeros(len(source_names), len(_SUMS), dtype=torch.float64, device=device)

    def add(self, output: ForwardOutput) -> None:
        """Add the tokens of one forward pass."""
        _, logprob_N, c_N, entropy_N, *_ = output.losses
        p_N = logprob_N.exp()
        one_N = torch.ones_like(p_N)
        weight_N = one_N if output.weight_N is None else output.weight_N
        columns = one_N, -c_N * logprob_N, -logprob_N, p_N, p_N.square(), c_N, c_N.square(), entropy_N
        weighted_NF = weight_N.double()[:, None] * torch.stack(columns, dim=1).double()
        of_tokens_NF = torch.cat([one_N.double()[:, None], weighted_NF], dim=1)
        self._sums.index_add_(0, output.tensors.origin_N, of_tokens_NF)

    def reduce(self) -> None:
        """Add up all workers' sums; a collective call."""
        torch.distributed.all_reduce(self._sums)

    def metrics(self) -> dict[str, float]:
        """Means over all tokens, and by origin, such as `self/loss`, for the origins that have tokens."""
        by_origin = dict(zip(self._names, self._sums.tolist(), strict=True))
        metrics = _means([sum(column) for column in zip(*by_origin.values(), strict=True)])
        for origin, sums in by_origin.items():
            if num_tokens := int(sums[0]):
                of_origin = _means(sums) | {"tokens": num_tokens}
                metrics |= {f"{origin}/{name}": value for name, value in of_origin.items()}
        return metrics


def _means(sums: list[float]) -> dict[str, float]:
    of = dict(zip(_SUMS, sums, strict=True))
    weight = of["weight"] or 1.0  # without tokens all sums are 0
    mean_coefficient = of["c"] / weight
    return {
        "loss": of["loss"] / weight,
        "cross_entropy": of["nll"] / weight,
        "mean_token_probability": of["p"] / weight,
        "coefficient_mean": mean_coefficient,
        "coefficient_variance": max(0.0, of["c_squared"] / weight - mean_coefficient**2),
        # of the weights w = p: (Σw)² / (N Σw²), 1 where all tokens count alike
        "effective_sample_size": of["p"] ** 2 / (weight * of["p_squared"]) if of["p_squared"] else 0.0,
        "entropy": of["entropy"] / weight,
    }
