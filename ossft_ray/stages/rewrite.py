"""`ossft rewrite`: make the data on-policy. Problems in, EXAMPLE rows out (arXiv 2509.15157, Section 3).

The driver reads the input once, sets unusable rows aside, and lays the problems out in parts. Workers turn each
part of problems into a part of examples. A part is written whole or not at all, and until then its draws are logged,
so a run that was killed goes on with the parts that are missing, and draws again only what was in flight.
"""

import asyncio
import dataclasses
import socket
import time
from collections import Counter
from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.engines.chat import load_chat
from ossft_ray.engines.vllm_policy import Sampling, check_engine_settings
from ossft_ray.method.prompts import Message
from ossft_ray.method.rewriting import Problem, Response, Rewritten, Stage, derive_seed, rewrite_problem, stage_prompt
from ossft_ray.provenance import write_config
from ossft_ray.stages.attempt_log import BEFORE, UNFINISHED, AttemptLog
from ossft_ray.stages.calibration import Calibration
from ossft_ray.stages.cluster import check_output, start_ray
from ossft_ray.stages.examples import dropped_row, example_rows
from ossft_ray.stages.intake import PARTS, PROBLEMS, lay_out_problems, part_capacity, part_names
from ossft_ray.stages.parroting import Probe
from ossft_ray.stages.parts import part_number, write_part
from ossft_ray.stages.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.stages.regrading import regrade
from ossft_ray.stages.revisions import pin
from ossft_ray.stages.rewrite_inputs import extends, make_room, rewrite_inputs
from ossft_ray.stages.rewrite_manifest import part_counts, summarise
from ossft_ray.stages.rollout import RolloutWorker, run_workers
from ossft_ray.stages.room import replanned
from ossft_ray.stages.sessions import Session
from ossft_ray.storage import Folder, begin_stage, finish_stage

NAME = "rewrite"


class RewriteWorker(RolloutWorker):
    """Turns parts of problems into parts of examples."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.folder = Folder.at(self.experiment.run.output) / NAME
        self.calibration = Calibration(self.folder, self.experiment, self.draw, self.verify)
        self.probe = Probe(self.folder, self.experiment, self.sample, self.verify)

    def keeps_logprobs(self) -> bool:
        return self.experiment.rewrite.behavior_logprobs

    async def process(self, part: str) -> None:
        started = time.time()
        problems = [Problem(**row) for row in (self.folder / PROBLEMS).read_table(part).to_pylist()]
        log = AttemptLog(self.folder, part, self.life, self.experiment.rewrite.keep_attempts)
        progress = self.progress[part] = Counter()
        probing = asyncio.gather(*map(self.probe.outcome, problems))
        done = await asyncio.gather(*(self.rewrite(problem, log, progress) for problem in problems))
        examples = [
            row for problem, rewritten in done for row in example_rows(problem, rewritten, self.chat, self.experiment)
        ]
        dropped = [
            dropped_row(problem, rewritten, self.experiment) for problem, rewritten in done if not rewritten.origin
        ]
        parroting = [outcome for outcome in await probing if outcome is not None]
        counts = await part_counts(done, log, self.prompt_tokens, self.is_same_answer)
        counts |= {"parroting": parroting, "host": socket.gethostname(), "started": started, "ended": time.time()}
        write_part(self.folder, part, examples, dropped, counts)
        log.delete()

    async def rewrite(self, problem: Problem, log: AttemptLog, progress: Counter[str]) -> tuple[Problem, Rewritten]:
        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            log.begin(problem.problem_id, stage, index)
            response = await self.calibration.draw(problem, stage, index)
            for _ in range(self.cut_off.pop(request_id(problem, stage, index), 0)):
                log.begin(problem.problem_id, stage, index)
            return response

        made = log.of(problem)
        async with self.a_place_in_flight():
            for attempt in await regrade(
                problem, log.take_outdated(problem), self.verify, self.experiment.rewrite.keep_per_problem
            ):
                made[attempt.stage, attempt.index] = attempt
            rewritten = await rewrite_problem(
                problem,
                sample,
                self.verify,
                self.experiment.rewrite,
                self.experiment.prompts,
                made=made,
                room=self.in_flight.room,
                max_copied=self.calibration.max_copied,
            )
            progress.update(["problems", rewritten.origin or "dropped"])
            self.metrics.count("ossft_problems", origin=rewritten.origin or "dropped")
        return problem, rewritten

    async def draw(self, problem: Problem, stage: Stage, index: int) -> Response:
        """The response that this run's seed, the problem, the stage and the index determine."""
        settings = self.experiment.rewrite
        stage_settings = settings.self_alignment if stage == "self" else settings.guided_alignment
        sampling = Sampling(
            stage_settings.temperature, stage_settings.top_p, stage_settings.max_tokens, settings.max_repeats
        )
        seed = derive_seed(self.experiment.run.seed, problem.problem_id, stage, index)
        prompt = stage_prompt(stage, problem, settings, self.experiment.prompts)
        return await self.sample(prompt, sampling, seed, request_id(problem, stage, index))

    async def is_same_answer(self, problem: Problem, answer: str, other: str) -> bool:
        """Whether two answers that were read from responses are the same to the problem's verifier."""
        return (await self.verify(dataclasses.replace(problem, answer=answer), rf"\boxed{{{other}}}")).correct

    async def prompt_tokens(self, problem: Problem, stage: Stage) -> int:
        return len(await self.render(stage_prompt(stage, problem, self.experiment.rewrite, self.experiment.prompts)))


def request_id(problem: Problem, stage: Stage, index: int) -> str:
    return f"{problem.problem_id}/{stage}/{index}"


@replanned
def rewrite(
    experiment: Experiment,
    on_progress: OnProgress | None = None,
    start_over: bool = False,
    verbose: bool = False,
    worker: type[RewriteWorker] = RewriteWorker,
) -> dict[str, Any]:
    """Rewrite all problems of `[data]` and return the manifest; a complete stage is left as it is.

    `on_progress` gets running totals: `total`, `done_before`, and of this session `problems`, `self`, `guided`,
    `expert`, `dropped`, `generated_tokens`, `policies`. `worker` may be a subclass that samples or verifies otherwise.

    Raises:
        InputError: the data, the policy or the settings cannot be used, or the folder holds rows of other settings.
        JobError: a worker failed; the same command goes on.
    """
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    experiment = pin(experiment, anew=start_over)
    chat = load_chat(experiment.policy)
    inputs = rewrite_inputs(experiment)
    folder = Folder.at(experiment.run.output) / NAME
    report = on_progress or (lambda totals: None)
    if (manifest := begin_stage(folder, inputs, start_over, extends)) is not None:
        report(ALREADY_COMPLETE)
        return manifest

    session = Session.begin(folder)
    layout = lay_out_problems(experiment, chat, folder)
    make_room(folder, inputs)
    session.note("intake")
    write_config(experiment)
    finished = set(folder.names(PARTS))
    # The large parts first: at the end, small ones spread better over many policies.
    missing = sorted(set(part_names(layout)) - finished, key=lambda part: (-_capacity(part), part))
    num_done = min(layout.problems, sum(map(_capacity, finished)))
    counts = {"total": layout.problems, "done_before": num_done}
    start_ray(experiment, verbose)
    totals = run_workers(
        worker, experiment, missing, layout.problems - num_done, NAME, lambda totals: report(counts | totals), verbose
    )
    session.note("rewriting", totals)
    session.end()
    manifest = finish_stage(folder, inputs, summarise(folder, layout))
    for name in (UNFINISHED, BEFORE):
        (folder / name).delete()
    write_config(experiment)
    return manifest


def _capacity(part: str) -> int:
    return part_capacity(part_number(part))
