"""Tokens that early stopping saves: generated tokens per kept on-policy example, compared with drawing all n.

    python benchmarks/early_stopping.py [--problems 2000] [--samples 8] [--seed 0]

A scripted policy answers through the real `rewrite_problem`, once in waves and once exhaustively, with the same
responses both times. As with real models, wrong responses are longer than right ones, and some of them run into the
token limit. The pass rate is the share of acceptable responses. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import random
from dataclasses import dataclass

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response, RewriteResult, Stage
from ossft_ray.common.verdict import CORRECT, WRONG, Verdict
from ossft_ray.config import Rewrite
from ossft_ray.method.rewriting import derive_seed, rewrite_problem

PASS_RATES = [tenth / 10 for tenth in range(1, 10)]
MAX_TOKENS = 2048
MEDIAN_TOKENS = {True: 350, False: 600}  # of right and wrong responses
SPREAD = 0.6  # of the logarithm of a length


@dataclass(frozen=True)
class Cost:
    """What one way of drawing costs."""

    tokens: int
    draws: int
    kept: list[str]  # the texts of the kept responses

    @property
    def tokens_per_kept(self) -> float:
        return self.tokens / len(self.kept)


async def verify(problem: Problem, response: str) -> Verdict:
    is_right = response.startswith("right")
    return Verdict(is_right, CORRECT if is_right else WRONG)


async def measure(pass_rate: float, exhaustive: bool, num_problems: int, num_samples: int, seed: int) -> Cost:
    """Rewrite problems of one pass rate and count every token that is generated for them."""
    settings = Rewrite.model_validate(
        {"stages": ["self"], "exhaustive": exhaustive, "self_alignment": {"num_samples": num_samples}}
    )
    lengths: list[int] = []

    async def rewrite(number: int) -> RewriteResult:
        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            rng = random.Random(derive_seed(seed, str(pass_rate), number, index))
            is_right = rng.random() < pass_rate
            length = round(MEDIAN_TOKENS[is_right] * rng.lognormvariate(0, SPREAD))
            is_cut = length >= MAX_TOKENS and not is_right
            length = min(length, MAX_TOKENS)
            lengths.append(length)
            text = f"{'right' if is_right else 'wrong'} {number} {index}"
            return Response(text, [0] * length, "length" if is_cut else "stop")

        return await rewrite_problem(Problem(str(number), "40 + 2?", "42", None), sample, verify, settings)

    results = [await rewrite(number) for number in range(num_problems)]
    kept = [attempt.response.text for result in results for attempt in result.kept if attempt.response]
    return Cost(sum(lengths), len(lengths), kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="the tokens that early stopping saves")
    parser.add_argument("--problems", type=int, default=2000, help="problems of each pass rate")
    parser.add_argument("--samples", type=int, default=8, help="n, the samples of each problem")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    print("pass rate   kept   samples/problem   tokens per kept example: waves   all n   ratio")
    for pass_rate in PASS_RATES:
        waves, all_n = (
            asyncio.run(measure(pass_rate, exhaustive, arguments.problems, arguments.samples, arguments.seed))
            for exhaustive in (False, True)
        )
        if waves.kept != all_n.kept:
            raise SystemExit(f"pass rate {pass_rate}: early stopping and drawing all n kept different responses")
        ratio = waves.tokens_per_kept / all_n.tokens_per_kept
        figures[f"token_ratio_at_pass_rate_{pass_rate}"] = round(ratio, 4)
        print(
            f"{pass_rate:9}   {len(waves.kept) / arguments.problems:4.0%}   {waves.draws / arguments.problems:15.2f}"
            f"   {waves.tokens_per_kept:30.0f}   {all_n.tokens_per_kept:7.0f}   {ratio:5.3f}",
            flush=True,
        )
    print(json.dumps(figures | {"problems": arguments.problems, "num_samples": arguments.samples}))


if __name__ == "__main__":
    main()
