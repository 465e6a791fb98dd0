"""Data sets, trained models and scores of a world: each is made once, written whole, and found again later."""

import asyncio
import fcntl
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_trl import join_group

from fourway.experts import EXPERTS
from fourway.worlds import ON_GPU, TUNING_SEED, Levels, World, shuffled_guides
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Response, Stage
from ossft_ray.config import Rewrite, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.vllm_policy import Sampling, VllmPolicy
from ossft_ray.method.gap import LogprobSums
from ossft_ray.method.rewriting import derive_seed, rewrite_problem, stage_prompt, stage_settings
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.model_location import model_path
from ossft_ray.verification import Verdict
from ossft_ray.verification.kinds import number

BASE = "base"
_FROM_BASE = ("iw_sft", "dft_k3")  # losses that need the base's log-probabilities
_UNCHECKED = {  # settings of guided alignment with which every correct answer is kept, sound or not
    "require_derivation": False,
    "reference_phrases": [],
    "max_copied": 1.0,
    "max_contained": 1.0,
}
_ROWS_A_PASS = 16
DEVICE = "cuda" if ON_GPU else "cpu"
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
    learning_rates: tuple[float, ...] = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    tuning_seeds: int = 3


@dataclass(frozen=True)
class Method:
    """What is trained on, with which loss and which other settings of `[train]`."""

    data: str
    loss: str
    train: dict[str, Any] = field(default_factory=dict, hash=False)
    rate_of: str = ""  # the method whose learning rate it takes, if it has none of its own

    @property
    def name(self) -> str:
        return "-".join([self.data, self.loss, *(f"{key}={value}" for key, value in self.train.items())])


class OutOfTime(Exception):
    """The time budget is spent; the same command resumes."""


class Lab:
    """One process group, one vLLM engine whose weights are exchanged, one work folder. Use inside one asyncio loop."""

    def __init__(self, world: World, folder: Folder, size: Size, deadline: float) -> None:
        """`deadline` is a time of `time.monotonic()`; work that begins before it is completed."""
        self.world, self.folder, self.size, self.deadline = world, folder, size, deadline
        self.chat: Chat = load_chat(world.policy)
        self._engine: VllmPolicy | None = None
        self._base = model_path(world.policy.model)
        self.generated_tokens = 0  # of the attempts that rewriting has needed

    async def warm_up(self, problems: list[Problem], epochs: int, learning_rate: float) -> None:
        """Train the policy on experts' solutions first, with SFT; the result is the base of all that follows."""
        folder = self.folder / "models" / "warm-up"
        with self._only_one("warm-up"):
            if not folder.exists():
                self._begin(f"warm up on {len(problems)} problems")
                assert folder.local_path is not None
                rows = [self._expert_row(problem) for problem in problems]
                method = Method("warm-up", "sft", {"epochs": epochs})
                self._train(rows, method, learning_rate, TUNING_SEED, folder.local_path)
        self._base = folder.path

    async def scores(self, method: Method | None, seed: int) -> Row:
        """{level: {problem id: {"correct": [...], "answered": [...], "tokens": [...]}}} on held-out problems.

        The base (`method` None) is sampled twice as often. Its second half says which problems it can do; its
        first half, with the models' seeds, says how well, so that the choice of problems favours no model. A method
        whose tuned rate is 0 (no training) gets the base's first half.
        """
        name = BASE if method is None else f"{method.name}-seed{seed}"
        if (found := self._find("scores", name)) is not None:
            return found
        num_samples = self.size.num_samples * (2 if method is None else 1)
        rate = await self.tuned(method) if method is not None else 0.0
        if method is not None and not rate:
            found = _first_samples(await self.scores(None, 0), num_samples)
            self._keep("scores", name, found)
            return found
        model = self._base if method is None else await self.trained(method, seed, rate)
        return await self._score(name, model, self.world.heldout_problems(self.size.num_heldout), num_samples)

    async def tuned(self, method: Method) -> float:
        """The learning rate with the best mean accuracy over levels and tuning seeds; 0, no training, is among them."""
        if method.rate_of:
            found = self._find("tuned", method.rate_of)
            if found is None:
                raise SystemExit(f"{method.rate_of} must be tuned before {method.name} can take its learning rate")
            return float(found["rate"])
        if (found := self._find("tuned", method.name)) is not None:
            return float(found["rate"])
        by_rate = {0.0: [_mean_accuracy(await self._tuning_scores("tuning-base", self._base))]}
        for rate in self.size.learning_rates:
            by_rate[rate] = []
            for seed in range(TUNING_SEED, TUNING_SEED + self.size.tuning_seeds):
                name = f"tuning-{method.name}-{rate:g}-{seed}"
                scores = self._find("scores", name)
                if scores is None:
                    scores = await self._tuning_scores(name, await self.trained(method, seed, rate))
                by_rate[rate].append(_mean_accuracy(scores))
        best = max(by_rate, key=lambda rate: float(np.mean(by_rate[rate])))
        accuracies = {f"{rate:g}": found for rate, found in by_rate.items()}
        self._keep("tuned", method.name, {"rate": best, "accuracies": accuracies})
        return best

    async def trained(self, method: Method, seed: int, learning_rate: float) -> str:
        """Path of the trained model."""
        folder = self.folder / "models" / f"{method.name}-{learning_rate:g}-seed{seed}"
        if not folder.exists():
            rows = await self.data(method.data, seed)
            self._begin(f"train {method.name} at {learning_rate:g}, seed {seed}")
            assert folder.local_path is not None
            self._train(rows, method, learning_rate, seed, folder.local_path)
        return folder.path

    async def data(self, name: str, seed: int) -> list[Row]:
        """As many rows as problems: `problem_id`, `question`, `origin`, `response_token_ids`.

        `name` is an expert's, `expert` (all experts), `dr` (the paper's rewriting), or one of these with one change:

        - `verified`: experts' solutions whose result is right
        - `no_guided`, `no_self`: without that stage
        - `rejection`: self rows alone; `dropped`: `dr` without its expert rows
        - `placebo`: for each problem that `dr` solves, an expert's correct solution; else as `dr`
        - `shuffled`: the guide is another problem's solution; `other_guide`: the answer in it hidden if `dr` shows it,
          shown if `dr` hides it; `unchecked`: every guided response with the right answer is kept
        """
        with self._only_one(f"data-{name}-{seed}"):
            if (found := self._find("data", f"{name}-{seed}")) is not None:
                return found["rows"]
            rows = await self._make_data(name, seed)
            if not rows:
                raise SystemExit(f"no rows of {name} for seed {seed}")
            origins = Counter(row["origin"] for row in rows)
            rows = [rows[index % len(rows)] for index in range(self.size.num_problems)]  # the same number of steps
            self._keep("data", f"{name}-{seed}", {"origins": origins, "rows": rows})
        return rows

    async def _make_data(self, name: str, seed: int) -> list[Row]:
        problems = self._problems(seed)
        expert = {problem.problem_id: self._expert_row(problem) for problem in problems}
        if name == "expert":
            return list(expert.values())
        if name in EXPERTS:
            return list(expert.values())[EXPERTS.index(name) :: len(EXPERTS)]  # type: ignore[arg-type]
        if name == "verified":
            return [expert[p.problem_id] for p in problems if number.grade(p.answer, p.expert_solution or "").correct]
        settings = self.world.rewriting
        if name == "dr":
            return await self._rewritten(problems, settings, seed, expert)
        if name == "no_self":
            return await self._rewritten(problems, settings.model_copy(update={"stages": ["guided"]}), seed, expert)
        ours = await self.data("dr", seed)
        if name == "no_guided":
            return [expert[row["problem_id"]] if row["origin"] == "guided" else row for row in ours]
        if name == "rejection":
            return [row for row in ours if row["origin"] == "self"]
        if name == "dropped":
            return [row for row in ours if row["origin"] != "expert"]
        if name == "placebo":
            correct = {each.problem_id: self._expert_row(each) for each in self._problems(seed, mistakes=0.0)}
            return [row if row["origin"] == "expert" else correct[row["problem_id"]] for row in ours]
        # what follows changes only the guided stage, so the self rows are those of `dr`
        unsolved = {row["problem_id"] for row in ours if row["origin"] != "self"}
        guided = settings.guided_alignment
        changed, guides = settings.model_copy(update={"stages": ["guided"]}), problems
        if name == "shuffled":
            guides = shuffled_guides(problems)
        elif name == "other_guide":
            other = guided.model_copy(update={"hide_answer": not guided.hide_answer})
            changed = changed.model_copy(update={"guided_alignment": other})
        else:
            assert name == "unchecked", name
            unchecked = guided.model_copy(update=_UNCHECKED)
            changed = changed.model_copy(update={"guided_alignment": unchecked, "check_steps": "off"})
        rows = await self._rewritten([each for each in guides if each.problem_id in unsolved], changed, seed, expert)
        made = {row["problem_id"]: row for row in rows}
        return [made.get(row["problem_id"], row) for row in ours]

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

    @contextmanager
    def _only_one(self, name: str) -> Iterator[None]:
        """Let one of the processes that share the folder make `name`; the others wait, and then find it."""
        assert self.folder.local_path is not None
        folder = self.folder.local_path / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _begin(self, what: str) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime(what)
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def _problems(self, seed: int, mistakes: float | None = None) -> list[Problem]:
        share = self.size.mistakes if mistakes is None else mistakes
        return self.world.problems(seed, self.size.num_problems, share)

    def _expert_row(self, problem: Problem) -> Row:
        tokens = self.chat.encode_response(problem.expert_solution or "")
        return _row(problem, "expert", tokens)

    async def _rewritten(
        self, problems: list[Problem], settings: Rewrite, seed: int, expert: dict[str, Row]
    ) -> list[Row]:
        self._begin(f"rewrite {len(problems)} problems, {'+'.join(settings.stages)}, seed {seed}")
        policy = await self._sampler(self._base)

        async def rewrite(problem: Problem) -> Row:
            async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
                sampling = Sampling.of(stage_settings(stage, settings), settings.max_repeats)
                draw = (problem.problem_id, stage, index)
                return await policy.sample(
                    self.chat.render(prompt), sampling, derive_seed(seed, *draw), "/".join(map(str, draw))
                )

            rewritten = await rewrite_problem(problem, sample, _verify, settings, self.world.prompts)
            self.generated_tokens += sum(attempt.num_tokens for attempt in rewritten.attempts)
            if not rewritten.kept or rewritten.kept[0].response is None:
                return expert[problem.problem_id]
            tokens = self.chat.close_turn(rewritten.kept[0].response.token_ids)
            return _row(problem, str(rewritten.origin), tokens)

        return list(await asyncio.gather(*map(rewrite, problems)))

    def _train(self, rows: list[Row], method: Method, learning_rate: float, seed: int, target: Path) -> None:
        from ossft_ray.engines.training.saving import export_model
        from ossft_ray.engines.training.trainer import Trainer

        if not torch.distributed.is_initialized():
            join_group(Path(tempfile.mkdtemp()))
        settings = Train.model_validate(
            {
                "loss": method.loss,
                "learning_rate": learning_rate,
                "epochs": self.size.epochs,
                "global_batch_size": self.size.batch_size,
                **self.world.training,
                **method.train,
            }
        )
        none = [None] * len(rows)
        references = self._base_logprobs(self._solve_prompts(rows), rows) if method.loss in _FROM_BASE else none
        behaviors = self._behavior_logprobs(rows, seed) if method.loss == "is" else none
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
        policy = self.world.policy.model_copy(update={"model": self._base})
        trainer = Trainer(policy, settings, seed, examples)
        for _ in trainer.steps():
            pass
        partial = target.with_name(f".{target.name}.partial")
        export_model(trainer, partial, self.chat)
        partial.rename(target)

    async def _tuning_scores(self, name: str, model: str) -> Row:
        return await self._score(name, model, self.world.tuning_problems(self.size.num_tuning), 4)

    async def _score(self, name: str, model: str, problems: Levels, num_samples: int) -> Row:
        with self._only_one(f"scores-{name}"):
            if (found := self._find("scores", name)) is not None:
                return found
            self._begin(f"score {name}")
            scores = await self._answers(model, problems, num_samples)
            self._keep("scores", name, scores)
        return scores

    async def _answers(self, model: str, problems: Levels, num_samples: int) -> Row:
        policy = await self._sampler(model)
        sampling = Sampling(1.0, 1.0, self.world.max_tokens)

        async def answers(problem: Problem) -> Row:
            prompt, name = self._prompt(problem.question), problem.problem_id
            drawn = await asyncio.gather(
                *(
                    policy.sample(prompt, sampling, derive_seed("four_way", name, index), f"{name}/{index}")
                    for index in range(num_samples)
                )
            )
            verdicts = [number.grade(problem.answer, response.text) for response in drawn]
            return {
                "correct": [verdict.correct for verdict in verdicts],
                "answered": [verdict.extracted is not None for verdict in verdicts],
                "tokens": [len(response.token_ids) for response in drawn],
            }

        scores = {}
        for level, of_level in problems.items():
            found = await asyncio.gather(*map(answers, of_level))
            scores[level] = {each.problem_id: of_one for each, of_one in zip(of_level, found, strict=True)}
        return scores

    async def _sampler(self, model: str) -> VllmPolicy:
        if self._engine is None:
            self._engine = VllmPolicy(self.world.policy, self.chat)
        await self._engine.load_weights(model)
        return self._engine

    def _prompt(self, question: str) -> list[int]:
        problem = Problem("", question, "", None)
        return self.chat.render(stage_prompt("self", problem, self.world.rewriting, self.world.prompts))

    def _solve_prompts(self, rows: list[Row]) -> list[list[int]]:
        return [self._prompt(row["question"]) for row in rows]

    def _behavior_logprobs(self, rows: list[Row], seed: int) -> list[list[float]]:
        """log p under the prompt and the temperature that wrote each response; 0 where an expert wrote it."""
        settings, problems = self.world.rewriting, {one.problem_id: one for one in self._problems(seed)}
        found = [[0.0] * len(row["response_token_ids"]) for row in rows]
        stages: tuple[Stage, ...] = ("self", "guided")
        for stage in stages:
            of_origin = [index for index, row in enumerate(rows) if row["origin"] == stage]
            written = [rows[index] for index in of_origin]
            prompts = [
                self.chat.render(stage_prompt(stage, problems[row["problem_id"]], settings, self.world.prompts))
                for row in written
            ]
            temperature = stage_settings(stage, settings).temperature
            for index, logprobs in zip(of_origin, self._base_logprobs(prompts, written, temperature), strict=True):
                found[index] = logprobs
        return found

    @torch.no_grad()
    def _base_logprobs(self, prompts: list[list[int]], rows: list[Row], temperature: float = 1.0) -> list[list[float]]:
        """log p of each response token after its prompt under the base, in float32."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.float32).eval().to(DEVICE)
        found = []
        for start in range(0, len(rows), _ROWS_A_PASS):
            responses = [row["response_token_ids"] for row in rows[start : start + _ROWS_A_PASS]]
            whole = [torch.tensor([*prompt, *ids]) for prompt, ids in zip(prompts[start:], responses, strict=False)]
            # padding on the right of a row does not change it
            logits_BTV = model(torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(DEVICE)).logits
            for logits_TV, ids_T, response in zip(logits_BTV, whole, responses, strict=True):
                of_response_TV = logits_TV[len(ids_T) - len(response) - 1 : len(ids_T) - 1] / temperature
                target_T = torch.tensor(response, device=DEVICE)
                logprob_T = of_response_TV.log_softmax(-1).gather(1, target_T[:, None])[:, 0]
                found.append(logprob_T.tolist())
        return found


async def _verify(problem: Problem, response: str) -> Verdict:
    return number.grade(problem.answer, response)


def _mean_accuracy(scores: Row) -> float:
    """The mean over levels of the mean accuracy over their problems."""
    return float(np.mean([[np.mean(answers["correct"]) for answers in level.values()] for level in scores.values()]))


def _first_samples(scores: Row, num_samples: int) -> Row:
    return {
        level: {
            problem: {key: values[:num_samples] for key, values in answers.items()}
            for problem, answers in of_level.items()
        }
        for level, of_level in scores.items()
    }


def _row(problem: Problem, origin: str, token_ids: list[int]) -> Row:
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "origin": origin,
        "response_token_ids": token_ids,
    }
