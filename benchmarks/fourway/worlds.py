"""The two worlds of the four-way experiment: the playground's arithmetic, and GSM8K with SmolLM2-135M-Instruct.

A world says which policy is trained, on which problems with which experts' solutions, and how a response is graded.
"""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from fourway.experts import mixed_problems
from ossft_ray.common.playground_paths import POLICY
from ossft_ray.common.types import Problem
from ossft_ray.config import GuidedAlignment, Policy, Prompts, Rewrite, SelfAlignment
from ossft_ray.data.layouts import strip_annotations
from ossft_ray.playground.arithmetic import LEVELS, heldout_problems, sample_problem, training_problems
from ossft_ray.verification.answers import final_answer

TUNING_SEED = 1000  # the first of the seeds with which learning rates are chosen
ON_GPU = torch.cuda.is_available()
Levels = dict[str, list[Problem]]


class World(Protocol):
    """Problems with experts' solutions, and a policy."""

    policy: Policy
    prompts: Prompts
    rewriting: Rewrite
    training: dict[str, Any]  # settings of [train]
    max_tokens: int

    def problems(self, seed: int, num_problems: int, mistakes: float) -> list[Problem]:
        """The problems of a seed; a share `mistakes` of the experts' solutions is wrong."""

    def tuning_problems(self, num_problems: int) -> Levels:
        """`num_problems` a level; no seed trains on them."""

    def heldout_problems(self, num_problems: int) -> Levels:
        """`num_problems` a level for the results; nothing else uses them."""


class Playground:
    """The playground's policy and arithmetic, five levels; three experts take turns."""

    policy = Policy(model=POLICY, dtype="float32")
    prompts = Prompts()
    max_tokens = 128
    rewriting = Rewrite(
        self_alignment=SelfAlignment(max_tokens=max_tokens),
        guided_alignment=GuidedAlignment(max_tokens=max_tokens, hide_answer=False),  # as in pre-training
    )
    training: ClassVar[dict[str, Any]] = {
        "max_length": 512,
        "micro_batch_tokens": 4096,
        "precision": "fp32",
        "zero_stage": 0,
    }

    def problems(self, seed: int, num_problems: int, mistakes: float) -> list[Problem]:
        rows = mixed_problems(num_problems, seed, mistakes)
        return [Problem(row["id"], row["question"], row["answer"], row["expert_solution"]) for row in rows]

    def tuning_problems(self, num_problems: int) -> Levels:
        """From the training split, without the first 480 problems of any tuning seed."""
        rng = random.Random("four_way tuning")
        seeds = range(TUNING_SEED, TUNING_SEED + 10)
        known = {row["question"] for seed in seeds for row in training_problems(480, seed)}
        return {f"level{level}": list(_new_problems(level, num_problems, rng, known)) for level in LEVELS}

    def heldout_problems(self, num_problems: int) -> Levels:
        return {
            f"level{level}": [
                Problem(row["id"], row["question"], row["answer"], None)
                for row in heldout_problems(level, num_problems)
            ]
            for level in LEVELS
        }


class Gsm8k:
    """SmolLM2-135M-Instruct on GSM8K. The experts' solutions have no annotations and end with a boxed answer.

    Rows of the training split: the last 1,000 are held out, the 500 before them are for tuning, and seeds take theirs
    from the rest, which is shuffled once. With `max_steps`, each of the three keeps only problems whose solution has at
    most that many calculations. On a GPU an engine takes 6 GiB for its cache, so that several processes fit.
    """

    prompts = Prompts.model_validate({"template": "qwen-boxed"})
    max_tokens = 192
    rewriting = Rewrite(
        self_alignment=SelfAlignment(num_samples=4, max_tokens=max_tokens),
        guided_alignment=GuidedAlignment(num_samples=4, max_tokens=max_tokens),
    )
    training: ClassVar[dict[str, Any]] = {
        "max_length": 512,
        "micro_batch_tokens": 8192 if ON_GPU else 1024,
        "precision": "bf16",
        "zero_stage": 0,
        "compile": False,  # it would take longer than the few steps
    }

    def __init__(self, model: Path, data: Path, max_steps: int | None = None) -> None:
        engine: dict[str, Any] = {"max_model_len": 1024}
        if ON_GPU:
            engine |= {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 6 << 30, "max_num_seqs": 1024}
        self.policy = Policy(model=str(model), engine=engine)
        with data.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        numbered = list(enumerate(rows))
        self._heldout, self._tuning, self._rest = (
            [self._problem(*row) for row in part if max_steps is None or row[1]["answer"].count("<<") <= max_steps]
            for part in (numbered[-1000:], numbered[-1500:-1000], numbered[:-1500])
        )
        random.Random("four_way gsm8k").shuffle(self._rest)

    def problems(self, seed: int, num_problems: int, mistakes: float = 0.0) -> list[Problem]:
        """`mistakes` is ignored: GSM8K's solutions stay as they are."""
        place = seed if seed < TUNING_SEED else seed - TUNING_SEED + len(self._rest) // num_problems // 2
        found = self._rest[place * num_problems : (place + 1) * num_problems]
        if len(found) < num_problems:
            raise SystemExit(f"GSM8K has too few problems for seed {seed} with {num_problems} each")
        return found

    def warm_up_problems(self, num_problems: int) -> list[Problem]:
        """The last problems of the rest, which no seed takes unless there are many seeds."""
        return self._rest[-num_problems:]

    def tuning_problems(self, num_problems: int) -> Levels:
        return {"gsm8k": self._tuning[:num_problems]}

    def heldout_problems(self, num_problems: int) -> Levels:
        return {"gsm8k": self._heldout[:num_problems]}

    @staticmethod
    def _problem(number: int, row: dict[str, str]) -> Problem:
        answer = final_answer(row["answer"]) or ""
        solution = strip_annotations(row["answer"]).rstrip()
        return Problem(f"gsm8k-{number}", row["question"], answer, f"{solution}\nThe answer is \\boxed{{{answer}}}.")


def shuffled_guides(problems: list[Problem]) -> list[Problem]:
    """The same problems, each with the solution of the next one."""
    guides = [problem.expert_solution for problem in problems]
    return [replace(problem, expert_solution=guides[index - 1]) for index, problem in enumerate(problems)]


def _new_problems(level: int, num_problems: int, rng: random.Random, known: set[str]) -> Iterator[Problem]:
    for index in range(num_problems):
        drawn = (sample_problem(level, "train", rng) for _ in itertools.count())
        problem = next(problem for problem in drawn if problem.question not in known)
        known.add(problem.question)
        yield Problem(f"tuning-level{level}-{index}", problem.question, problem.answer, None)
