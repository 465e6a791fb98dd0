"""What does early stopping save? Generated tokens a kept on-policy example, against drawing all n.

    python benchmarks/early_stopping.py [--problems 2000] [--samples 8] [--seed 0]

A scripted policy answers through the real `rewrite_problem`, in waves and exhaustively, with the same responses both
times. Wrong responses are longer than right ones, as of real models, and some of them run into the token limit. The
pass rate is the share of responses that are acceptable. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import random
from dataclasses import dataclass

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response, Rewritten, Stage
from ossft_ray.config import Rewrite
from ossft_ray.method.rewriting import Judgement, derive_seed, rewrite_problem

PASS_RATES = [tenth / 10 for tenth in range(1, 10)]
MAX_TOKENS = 2048
MEDIAN_TOKENS = {True: 350, False: 600}  # of right and wrong responses
SPREAD = 0.6  # of the logarithm of a length


@dataclass(frozen=True)
class Spent:
    """What one way of drawing came to."""

    tokens: int
    draws: int
    kept: list[str]  # the texts of the kept responses

    @property
    def tokens_per_kept(self) -> float:
        return self.tokens / len(self.kept)


async def verify(problem: Problem, response: str) -> Judgement:
    return Judgement(*((True, "correct") if response.startswith("right") else (False, "wrong")))


async def spend(pass_rate: float, exhaustive: bool, num_problems: int, num_samples: int, seed: int) -> Spent:
    """Rewrite problems of one pass rate, and count every token that is generated for them."""
    settings = Rewrite.model_validate(
        {"stages": ["self"], "exhaustive": exhaustive, "self_alignment": {"num_samples": num_samples}}
    )
    lengths: list[int] = []

    async def rewrite(number: int) -> Rewritten:
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
    kept = [result.kept.response.text for result in results if result.kept and result.kept.response]
    return Spent(sum(lengths), len(lengths), kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="what early stopping saves")
    parser.add_argument("--problems", type=int, default=2000, help="of each pass rate")
    parser.add_argument("--samples", type=int, default=8, help="n, the samples a problem")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    print("pass rate   kept   draws a problem   tokens a kept example: waves     all n   ratio")
    for pass_rate in PASS_RATES:
        waves, all_n = (
            asyncio.run(spend(pass_rate, exhaustive, arguments.problems, arguments.samples, arguments.seed))
            for exhaustive in (False, True)
        )
        if waves.kept != all_n.kept:
            raise SystemExit(f"pass rate {pass_rate}: early stopping kept other responses than drawing all n")
        ratio = waves.tokens_per_kept / all_n.tokens_per_kept
        figures[f"token_ratio_at_pass_rate_{pass_rate}"] = round(ratio, 4)
        print(
            f"{pass_rate:9}   {len(waves.kept) / arguments.problems:4.0%}   {waves.draws / arguments.problems:15.2f}"
            f"   {waves.tokens_per_kept:28.0f}   {all_n.tokens_per_kept:7.0f}   {ratio:5.3f}",
            flush=True,
        )
    print(json.dumps(figures | {"problems": arguments.problems, "num_samples": arguments.samples}))


if __name__ == "__main__":
    main()
