"""A sampling worker asks its own engine for verdicts of the kind `judge`, and its verifiers for all others."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from ossft_ray.common.types import Problem, Response
from ossft_ray.common.verdict import Verdict
from ossft_ray.config import resolve
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.in_flight import InFlight
from ossft_ray.engines.vllm_policy import EngineDied, Sampling
from ossft_ray.policy.chat import load_chat
from ossft_ray.verification.kinds import judge


class Engine:
    """Says that everything is correct; the first engine dies on its first request."""

    num_engines = 0

    def __init__(self) -> None:
        Engine.num_engines += 1
        self.number = Engine.num_engines

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        assert sampling == Sampling.among(judge.VERDICTS)
        if self.number == 1:
            raise EngineDied("once")
        return Response("correct", [1, 2], "stop")

    def shutdown(self) -> None:
        pass


class Verifiers:
    async def verify(self, *task: str) -> Verdict:
        return Verdict(False, "wrong")


class Worker(RolloutWorker):
    """Without Ray, and with scripted parts."""

    def __init__(self, kind: str) -> None:
        settings = {"policy": {"model": "playground"}, "data": {"path": "x.jsonl"}, "verify": {"kind": kind}}
        self.experiment = resolve(settings)
        self.chat, self.in_flight = load_chat(self.experiment.policy), InFlight(1)
        self.verifiers: Any = Verifiers()
        self.metrics: Any = type("Metrics", (), {"count": lambda *_, **__: None})()
        self.counts, self.interruptions = Counter[str](), Counter[str]()
        self._num_verdicts = self._num_before = self._deaths = 0
        self._policy, self._loading = None, asyncio.Lock()
        self._failure, self._processes = None, []

    def start_policy(self) -> Any:
        return Engine()

    async def _report_now(self) -> None:
        pass


@pytest.mark.parametrize(
    "kind, verifier, reason", [("judge", "", "correct"), ("math", "judge", "correct"), ("judge", "math", "wrong")]
)
def test_the_kind_decides_who_grades(kind: str, verifier: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "num_engines", 0)
    monkeypatch.setattr("ossft_ray.distributed.rollout_worker.current_processes", lambda: None)

    async def grade() -> tuple[Verdict, Worker]:
        worker = Worker(kind)
        return await worker.verify(Problem("p", "Why?", "Because.", None, verifier), "It is so."), worker

    verdict, worker = asyncio.run(grade())
    assert verdict.reason == reason
    assert Engine.num_engines == (2 if reason == "correct" else 0), "an engine that dies is replaced"
    assert not worker.interruptions and not worker.counts["draws"] and not worker.counts["generated_tokens"]
