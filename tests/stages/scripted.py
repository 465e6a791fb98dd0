"""Scripted policies for a rewrite on real Ray Data, to test parts, logs and workers without an engine."""

import asyncio
import json
import random
import shutil
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Experiment, resolve
from ossft_ray.engines.in_flight import InFlight
from ossft_ray.engines.vllm_policy import EngineDied, Sampling
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.rendered_prompts import RenderedPrompts
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import begin_stage, finish_stage
from ossft_ray.stages.evaluate.worker import EvaluateWorker
from ossft_ray.stages.rewrite.external import external_model
from ossft_ray.stages.rewrite.ingest import shard_input
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
from ossft_ray.stages.rewrite.manifest import manifest_figures
from ossft_ray.stages.rewrite.worker import RewriteWorker
from ossft_ray.verification import Verdict


class ScriptedPolicy:
    """Answers within 10 ms, as the sample's seed decides: right with probability 0.2 alone and 0.5 with guidance."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        rng = random.Random(seed)
        await asyncio.sleep(0.01 * rng.random())
        is_right = rng.random() < (0.2 if "/self/" in request_id else 0.5)
        token_ids = [rng.randrange(100) for _ in range(rng.randint(2, 9))]
        return Response(f"{'right' if is_right else 'wrong'} {token_ids}", token_ids, "stop")

    def shutdown(self) -> None:
        pass


class ScriptedWorker(RewriteWorker):
    def start_policy(self) -> Any:
        return ScriptedPolicy()

    async def verify(self, problem: Problem, response: str) -> Verdict:
        is_right = response.startswith("right")
        return Verdict(is_right, "correct" if is_right else "wrong", response)


class DicePolicy(ScriptedPolicy):
    """Answers with a number from 0 to 3, as the sample's seed decides."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        rng = random.Random(seed)
        return Response(
            rf"\boxed{{{rng.randrange(4)}}}", [rng.randrange(100) for _ in range(rng.randint(2, 9))], "stop"
        )


class DiceWorker(RewriteWorker):
    """A dice policy with real verifiers."""

    def start_policy(self) -> Any:
        return DicePolicy()


GUIDE = " ".join(f"guide{chr(97 + number)}" for number in range(24))


class CopyingPolicy(ScriptedPolicy):
    """Is wrong alone, and right with guidance, where it copies a random share of `GUIDE`."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        rng = random.Random(seed)
        copied = GUIDE.split()[: rng.randrange(24)]
        own = [f"own{chr(97 + number)}" for number in range(24 - len(copied))]
        word = "wrong" if "/self/" in request_id else "right"
        return Response(" ".join([word, *copied, *own]), [rng.randrange(100) for _ in range(5)], "stop")


class CopyingWorker(ScriptedWorker):
    def start_policy(self) -> Any:
        return CopyingPolicy()


class FixedPolicy(ScriptedPolicy):
    """Gives these answers, one per sample, to every problem."""

    ANSWERS = (r"\frac{1}{2}", "3", "0.5", "4", "1/2", "3")

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        index = int(request_id.rpartition("/")[2])
        return Response(rf"It is $\boxed{{{self.ANSWERS[index]}}}$.", [1, 2, 3], "stop")


class FixedEvaluateWorker(EvaluateWorker):
    """A fixed policy with real verifiers."""

    def start_policy(self) -> Any:
        return FixedPolicy()


class MortalPolicy(ScriptedPolicy):
    """The engine dies during the tenth sample, with all requests in flight."""

    def __init__(self) -> None:
        self.num_samples = 0

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        response = await super().sample(prompt_ids, sampling, seed, request_id)
        self.num_samples += 1
        if self.num_samples >= 10:
            raise EngineDied("killed")
        return response


class MortalWorker(ScriptedWorker):
    def start_policy(self) -> Any:
        return MortalPolicy()


class StillbornWorker(ScriptedWorker):
    """Every engine dies before its first response."""

    def start_policy(self) -> Any:
        policy = MortalPolicy()
        policy.num_samples = 10
        return policy


class VanishingWorker(ScriptedWorker):
    """The run's folder is removed during the run."""

    async def process(self, part: str) -> None:
        shutil.rmtree(self.experiment.run.output)
        await super().process(part)


def experiment(output: str, num_problems: int = 40, **changes: Any) -> Experiment:
    """A rewrite of the playground's problems; `changes` are settings by section."""
    data = f"{output}-problems-{num_problems}.jsonl"
    write_problems(data, num_problems)
    sections: dict[str, Any] = {
        "run": {"output": output},
        "policy": {"model": "playground"},
        "data": {"path": data, "columns": {"question": "question", "expert_solution": "expert_solution"}},
        "rewrite": {},
    }
    for name, values in changes.items():
        sections[name] = {**sections.get(name, {}), **values}
    guided = sections["rewrite"].get("guided_alignment", {})
    sections["rewrite"] = {  # scripted answers derive nothing
        **sections["rewrite"],
        "guided_alignment": {"require_derivation": False, **guided},
    }
    return resolve(sections)


def write_problems(path: str, num_problems: int) -> None:
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in training_problems(num_problems, seed=5))


def rows_by_id(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """The EXAMPLE rows of a run by problem id, each problem's in their order."""
    folder = Folder.at(experiment.run.output) / "rewrite"
    rows: dict[str, list[dict[str, Any]]] = {}
    for part in folder.names("part-*.parquet"):
        for row in folder.read_table(part).to_pylist():
            rows.setdefault(row["problem_id"], []).append(row)
    return rows


class LocalWorker(ScriptedWorker):
    """A scripted worker in this process, without Ray."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.worker_id = experiment, uuid.uuid4().hex
        self.folder = Folder.at(experiment.run.output) / "rewrite"
        self.chat = load_chat(experiment.policy)
        self.prompts = RenderedPrompts(self.chat, 200)
        self.in_flight, self.policy = InFlight(100), self.start_policy()
        self.progress, self.interruptions = {}, Counter()
        self.metrics, self.counts, self.max_length = MagicMock(), Counter(), None
        self.external = external_model(experiment, 0, lambda: None)

    async def verify(self, problem: Problem, response: str) -> Verdict:
        """Like a scripted worker, but extracts no answer, which real verifiers would have to compare."""
        return replace(await super().verify(problem, response), extracted=None)

    async def sample(self, prompt: Any, sampling: Sampling, seed: int, request_id: str) -> Response:
        response: Response = await self.policy.sample([], sampling, seed, request_id)
        return response

    async def mean_logprob(self, prompt: Any, token_ids: list[int], request_id: str) -> float:
        """As many nats a token as the response has tokens, so that longer ones are less likely."""
        return -float(len(token_ids))


def rewrite_locally(experiment: Experiment) -> dict[str, Any]:
    """Rewrite with a scripted policy in this process, and return the manifest."""
    run = Run(experiment)
    folder = run.folder / "rewrite"
    if (complete := begin_stage(folder, rewrite_inputs(run))) is not None:
        return complete
    manifest = shard_input(run, folder)

    async def process() -> None:
        worker = LocalWorker(experiment)
        for part in sorted(set(manifest.part_names) - set(folder.names("part-*.parquet"))):
            await worker.process(part)

    asyncio.run(process())
    complete = finish_stage(folder, rewrite_inputs(run), manifest_figures(folder, manifest))
    write_config(experiment)
    return complete
