"""Data sets, trained models and scores of the playground: each is made once, written whole, and found again later."""

import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourway.experts import EXPERTS, mixed_problems
from ossft_ray.common.playground_paths import POLICY
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.config import GuidedAlignment, Policy, Rewrite, SelfAlignment, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.vllm_policy import Sampling, VllmPolicy
from ossft_ray.method.gap import LogprobSums
from ossft_ray.method.prompts import guided_prompt, solve_prompt
from ossft_ray.method.rewriting import derive_seed, rewrite_problem
from ossft_ray.playground.arithmetic import LEVELS, heldout_problems, sample_problem, training_problems
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.model_location import model_path
from ossft_ray.verification import Verdict
from ossft_ray.verification.kinds import number

BASE = "base"
TUNING_SEED = 1000  # of the problems that learning rates are chosen on
MAX_TOKENS = 128
_FROM_BASE = ("iw_sft", "dft_k3")  # losses that need the base's log-probabilities
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of everything; the same for all methods."""

    num_problems: int = 480
    mistakes: float = 0.1  # share of the expert solutions that end in a wrong result
    epochs: int = 3
    batch_size: int = 32
    num_heldout: int = 80  # a level
    num_samples: int = 8
    num_tuning: int = 30  # a level
    learning_rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Method:
    """What is trained on with which loss."""

    data: str
    loss: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.loss}"


class OutOfTime(Exception):
    """The time budget is spent; the same command goes on."""


class Lab:
    """One process group, one vLLM engine whose weights are exchanged, one work folder. Use inside one asyncio loop."""

    def __init__(self, folder: Folder, size: Size, deadline: float) -> None:
        """`deadline` is a time of `time.monotonic()`; work begun before it is finished."""
        self.folder, self.size, self.deadline = folder, size, deadline
        self.policy = Policy(model=POLICY, dtype="float32")
        self.chat: Chat = load_chat(self.policy)
        self._engine: VllmPolicy | None = None

    async def scores(self, method: Method | None, seed: int, learning_rate: float | None = None) -> Row:
        """{"level1": {problem id: {"correct": [...], "tokens": [...]}}, ...} on held-out problems.

        The base (`method` None) is sampled twice as often: its second half says which problems it can do, the first,
        with the models' seeds, how well, so that the choice flatters nobody.
        """
        name = BASE if method is None else f"{method.name}-seed{seed}"
        if (found := self._find("scores", name)) is not None:
            return found
        model = model_path(POLICY)
        if method is not None:
            model = await self.trained(method, seed, learning_rate or await self.tuned(method))
        problems = {f"level{level}": heldout_problems(level, self.size.num_heldout) for level in LEVELS}
        num_samples = self.size.num_samples * (2 if method is None else 1)
        return await self._score(name, model, problems, num_samples)

    async def tuned(self, method: Method) -> float:
        """The learning rate of the grid with the best mean accuracy over levels on the tuning problems."""
        by_rate = {}
        for rate in self.size.learning_rates:
            name = f"tuning-{method.name}-{rate:g}"
            if (found := self._find("scores", name)) is None:
                model = await self.trained(method, TUNING_SEED, rate)
                found = await self._score(name, model, self._tuning_problems(), 4)
            by_rate[rate] = float(
                np.mean([[np.mean(answers["correct"]) for answers in level.values()] for level in found.values()])
            )
        best = max(by_rate, key=lambda rate: by_rate[rate])
        self._keep("tuned", method.name, {"rate": best, "accuracy": {f"{rate:g}": by_rate[rate] for rate in by_rate}})
        return best

    async def trained(self, method: Method, seed: int, learning_rate: float) -> str:
        """Path of the trained model."""
        folder = self.folder / "models" / f"{method.name}-{learning_rate:g}-seed{seed}"
        if not folder.exists():
            rows = await self.data(method.data, seed)
            self._begin(f"train {method.name} at {learning_rate:g}, seed {seed}")
            assert folder.local_path is not None
            self._train(rows, method.loss, learning_rate, seed, folder.local_path)
        return folder.path

    async def data(self, name: str, seed: int) -> list[Row]:
        """As many rows as problems: `problem_id`, `question`, `origin`, `response_token_ids`."""
        if (found := self._find("data", f"{name}-{seed}")) is not None:
            return found["rows"]
        problems = self._problems(seed)
        expert = {problem.problem_id: self._expert_row(problem) for problem in problems}
        if name == "expert":
            rows = list(expert.values())
        elif name in EXPERTS:
            rows = list(expert.values())[EXPERTS.index(name) :: len(EXPERTS)]  # type: ignore[arg-type]
        elif name == "verified":
            rows = [expert[p.problem_id] for p in problems if number.grade(p.answer, p.expert_solution or "").correct]
        elif name == "no_guided":
            rows = [
                expert[row["problem_id"]] if row["origin"] == "guided" else row for row in await self.data("dr", seed)
            ]
        elif name == "rejection":
            rows = [row for row in await self.data("dr", seed) if row["origin"] == "self"]
        else:
            stages: list[Stage] = ["guided"] if name == "no_self" else ["self", "guided"]
            rows = await self._rewritten(problems, stages, seed, expert)
        origins = Counter(row["origin"] for row in rows)
        rows = [rows[index % len(rows)] for index in range(len(problems))]  # the same number of steps for all
        self._keep("data", f"{name}-{seed}", {"origins": origins, "rows": rows})
        return rows

    async def gap(self, name: str, seed: int) -> Row:
        """What the base thinks of a data set: mean log p in nats, perplexity, effective sample size, Var(p)."""
        if (found := self._find("gaps", f"{name}-{seed}")) is not None:
            return found
        rows = await self.data(name, seed)
        origins = (self._find("data", f"{name}-{seed}") or {})["origins"]
        self._begin(f"gap of {name}, seed {seed}")
        logprobs = [np.array(of_one) for of_one in self._base_logprobs(self._solve_prompts(rows), rows)]
        logprob_N = np.concatenate(logprobs)
        figures = {
            **LogprobSums.of(logprob_N).figures(),
            "weight_variance": float(np.exp(logprob_N).var()),
            "response_logprob_deviation": float(np.std([of_one.sum() for of_one in logprobs])),
            "tokens": len(logprob_N) / len(rows),
            "origins": origins,
        }
        self._keep("gaps", f"{name}-{seed}", figures)
        return figures

    def shutdown(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _find(self, kind: str, name: str) -> Row | None:
        folder = self.folder / kind
        return folder.read_json(f"{name}.json") if folder.exists(f"{name}.json") else None

    def _keep(self, kind: str, name: str, value: Row) -> None:
        (self.folder / kind).write_json(f"{name}.json", value)

    def _begin(self, what: str) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime(what)
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def _problems(self, seed: int) -> list[Problem]:
        rows = mixed_problems(self.size.num_problems, seed, self.size.mistakes)
        return [Problem(row["id"], row["question"], row["answer"], row["expert_solution"]) for row in rows]

    def _expert_row(self, problem: Problem) -> Row:
        tokens = self.chat.encode_response(problem.expert_solution or "")
        return _row(problem, "expert", tokens)

    async def _rewritten(
        self, problems: list[Problem], stages: list[Stage], seed: int, expert: dict[str, Row]
    ) -> list[Row]:
        self._begin(f"rewrite {'+'.join(stages)}, seed {seed}")
        settings = _rewriting(stages)
        policy = await self._sampler(model_path(POLICY))

        async def rewrite(problem: Problem) -> Row:
            async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
                of_stage = settings.self_alignment if stage == "self" else settings.guided_alignment
                sampling = Sampling.of(of_stage, settings.max_repeats)
                draw = (problem.problem_id, stage, index)
                return await policy.sample(
                    self.chat.render(prompt), sampling, derive_seed(seed, *draw), "/".join(map(str, draw))
                )

            rewritten = await rewrite_problem(problem, sample, _verify, settings)
            if not rewritten.kept or rewritten.kept[0].response is None:
                return expert[problem.problem_id]
            tokens = self.chat.close_turn(rewritten.kept[0].response.token_ids)
            return _row(problem, str(rewritten.origin), tokens)

        return list(await asyncio.gather(*map(rewrite, problems)))

    def _train(self, rows: list[Row], loss: str, learning_rate: float, seed: int, target: Path) -> None:
        from ossft_ray.engines.training.saving import export_model
        from ossft_ray.engines.training.trainer import Trainer

        _join_group()
        settings = Train(
            loss=loss,  # type: ignore[arg-type]
            learning_rate=learning_rate,
            epochs=self.size.epochs,
            global_batch_size=self.size.batch_size,
            max_length=512,
            micro_batch_tokens=4096,
            precision="fp32",
            zero_stage=0,
        )
        none = [None] * len(rows)
        references = self._base_logprobs(self._solve_prompts(rows), rows) if loss in _FROM_BASE else none
        behaviors = self._behavior_logprobs(rows, seed) if loss == "is" else none
        examples = Examples.build(
            [
                TokenizedExample(
                    row["problem_id"],
                    self._prompt(row["question"]),
                    row["response_token_ids"],
                    row["origin"],
                    reference,
                    behavior,
                )
                for row, reference, behavior in zip(rows, references, behaviors, strict=True)
            ]
        )
        trainer = Trainer(Policy(model=POLICY), settings, seed, examples)
        for _ in trainer.steps():
            pass
        partial = target.with_name(f".{target.name}.partial")
        export_model(trainer, partial, self.chat)
        partial.rename(target)

    async def _score(self, name: str, model: str, problems: dict[str, list[Row]], num_samples: int) -> Row:
        self._begin(f"score {name}")
        policy = await self._sampler(model)
        sampling = Sampling(1.0, 1.0, MAX_TOKENS)

        async def answers(row: Row) -> Row:
            prompt = self._prompt(row["question"])
            drawn = await asyncio.gather(
                *(
                    policy.sample(prompt, sampling, derive_seed("four_way", row["id"], index), f"{row['id']}/{index}")
                    for index in range(num_samples)
                )
            )
            return {
                "correct": [number.grade(row["answer"], response.text).correct for response in drawn],
                "tokens": [len(response.token_ids) for response in drawn],
            }

        scores = {}
        for level, rows in problems.items():
            found = await asyncio.gather(*map(answers, rows))
            scores[level] = {row["id"]: of_one for row, of_one in zip(rows, found, strict=True)}
        self._keep("scores", name, scores)
        return scores

    async def _sampler(self, model: str) -> VllmPolicy:
        if self._engine is None:
            self._engine = VllmPolicy(self.policy, self.chat)
        await self._engine.load_weights(model)
        return self._engine

    def _prompt(self, question: str) -> list[int]:
        return self.chat.render(solve_prompt(question))

    def _tuning_problems(self) -> dict[str, list[Row]]:
        """Of the training split, none of them trained on while tuning."""
        rng = random.Random("four_way tuning")
        known = {row["question"] for row in training_problems(self.size.num_problems, TUNING_SEED)}
        return {f"level{level}": list(_new_problems(level, self.size.num_tuning, rng, known)) for level in LEVELS}

    def _solve_prompts(self, rows: list[Row]) -> list[list[int]]:
        return [self._prompt(row["question"]) for row in rows]

    def _behavior_logprobs(self, rows: list[Row], seed: int) -> list[list[float]]:
        """log p under the prompt and the temperature that wrote each response; 0 where an expert wrote it."""
        settings, problems = _rewriting(["self", "guided"]), {one.problem_id: one for one in self._problems(seed)}
        found = [[0.0] * len(row["response_token_ids"]) for row in rows]
        for origin, temperature in (
            ("self", settings.self_alignment.temperature),
            ("guided", settings.guided_alignment.temperature),
        ):
            of_origin = [index for index, row in enumerate(rows) if row["origin"] == origin]
            written = [rows[index] for index in of_origin]
            prompts = self._solve_prompts(written)
            if origin == "guided":
                guides = [problems[row["problem_id"]].expert_solution or "" for row in written]
                prompts = [
                    self.chat.render(guided_prompt(row["question"], guide))
                    for row, guide in zip(written, guides, strict=True)
                ]
            for index, logprobs in zip(of_origin, self._base_logprobs(prompts, written, temperature), strict=True):
                found[index] = logprobs
        return found

    @torch.no_grad()
    def _base_logprobs(self, prompts: list[list[int]], rows: list[Row], temperature: float = 1.0) -> list[list[float]]:
        """log p of each response token after its prompt under the base, in float32."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(model_path(POLICY), dtype=torch.float32).eval()
        found = []
        for prompt, row in zip(prompts, rows, strict=True):
            response = row["response_token_ids"]
            logits_TV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
            logprob_T = logits_TV.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
            found.append(logprob_T.tolist())
        return found


def _rewriting(stages: list[Stage]) -> Rewrite:
    return Rewrite(
        stages=stages,
        self_alignment=SelfAlignment(max_tokens=MAX_TOKENS),
        guided_alignment=GuidedAlignment(max_tokens=MAX_TOKENS, hide_answer=False),  # as in pre-training
    )


async def _verify(problem: Problem, response: str) -> Verdict:
    return number.grade(problem.answer, response)


def _row(problem: Problem, origin: str, token_ids: list[int]) -> Row:
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "origin": origin,
        "response_token_ids": token_ids,
    }


def _new_problems(level: int, num_problems: int, rng: random.Random, known: set[str]) -> Iterator[Row]:
    for index in range(num_problems):
        while (problem := sample_problem(level, "train", rng)).question in known:
            pass
        known.add(problem.question)
        yield {"id": f"tuning-level{level}-{index}", "question": problem.question, "answer": problem.answer}


def _join_group() -> None:
    """A process group of this process alone, once."""
    if torch.distributed.is_initialized():
        return
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    place = tempfile.mkdtemp()
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/group", rank=0, world_size=1)
