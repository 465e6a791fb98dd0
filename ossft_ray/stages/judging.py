"""Grading a file with a judge: a verifier pool that asks its own engine for verdicts of the kind `judge`."""

import asyncio
import gc
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem
from ossft_ray.config import Policy, Verify
from ossft_ray.engines.vllm_policy import EngineDied, Sampling, VllmPolicy
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import fetch_weights
from ossft_ray.verification import Task, Verdict, VerifierPool
from ossft_ray.verification.kinds import judge
from ossft_ray.verification.pool import Item

_BATCH_ITEMS = 256


class JudgingPool(VerifierPool):
    """A pool whose judge is `policy`, which is loaded for the first verdict.

    Raises:
        InputError: the model cannot be used, or there is none.
    """

    def __init__(self, verify: Verify, policy: Policy | None) -> None:
        super().__init__(verify)
        if policy is None:
            raise InputError(
                'verify.kind = "judge" asks a model: name it, for example with --set policy.model=FOLDER, or --config'
            )
        self._kind, self._policy, self._chat = verify.kind, policy, load_chat(policy)
        self._runner = asyncio.Runner()
        self._engine: VllmPolicy | None = None
        self._numbers = itertools.count()

    def map_each(
        self, items: Iterable[Item], tasks: Callable[[Item], list[Task]]
    ) -> Iterator[tuple[Item, list[Verdict]]]:
        """As in the pool, one batch of items after another.

        Raises:
            JobError: the engine died.
        """
        remaining = iter(items)
        while batch := list(itertools.islice(remaining, _BATCH_ITEMS)):
            yield from zip(batch, self._runner.run(self._grade(list(map(tasks, batch)))), strict=True)

    def close(self) -> None:
        """End the engine and the workers."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None
            gc.collect()  # ends vLLM's object here, not while Python unloads the modules that it needs
        self._runner.close()
        super().close()

    async def _grade(self, tasks: list[list[Task]]) -> list[list[Verdict]]:
        return await asyncio.gather(*(self._verdicts(each) for each in tasks))

    async def _verdicts(self, tasks: list[Task]) -> list[Verdict]:
        return await asyncio.gather(*map(self._verdict, tasks))

    async def _verdict(self, task: Task) -> Verdict:
        response = task.response or ""
        if (task.kind or self._kind) != judge.KIND:
            return await self.verify(task.answer, response, task.question, task.kind)
        return await judge.judge(Problem("", task.question, task.answer, None), response, self._ask)

    async def _ask(self, prompt: list[Message]) -> str:
        prompt_ids = self._chat.render(prompt)
        sampling, name = Sampling.among(judge.VERDICTS), f"judge/{next(self._numbers)}"
        try:
            if self._engine is None:  # nothing is awaited until it is made, so it is made once
                os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
                fetch_weights(self._policy)
                self._engine = VllmPolicy(self._policy, self._chat)
            return (await self._engine.sample(prompt_ids, sampling, 0, name)).text
        except EngineDied as error:
            raise JobError(f"the judge's engine died: {error}") from error
