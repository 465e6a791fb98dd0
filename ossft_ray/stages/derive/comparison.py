"""All ablations of a run side by side: how many rows each would have, who wrote them, and how likely they are."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from ossft_ray.distributed.progress import OnProgress, ignore
from ossft_ray.method.gap import LogprobSums
from ossft_ray.stages.derive.ablations import ablations
from ossft_ray.stages.derive.replay import Replayed, Unsampled, replay_problem
from ossft_ray.stages.derive.source import Scores, Source
from ossft_ray.stages.derive.stage import verify_with, with_progress
from ossft_ray.stages.rewrite.rows import expert_response
from ossft_ray.verification import VerifierPool


@dataclass
class AblationFigures:
    """The figures of one ablation; `gap` is over the `scored` rows, whose log-probabilities the run's scores hold."""

    name: str
    problems: Counter[str] = field(default_factory=Counter)  # by origin, and those that are dropped
    rows: int = 0
    not_sampled: int = 0  # problems that need a stage in which nothing was sampled for them
    scored: int = 0
    gap: LogprobSums = field(default_factory=LogprobSums)

    def add(self, replayed: Replayed, responses: list[tuple[int, ...]], scores: Scores) -> None:
        """Count a problem, with the tokens of its rows and the scores of its responses."""
        self.problems[replayed.result.origin or "dropped"] += 1
        self.not_sampled += replayed.not_sampled is not None
        self.rows += len(responses)
        for sums in (scores[tokens] for tokens in responses if tokens in scores):
            self.scored += 1
            self.gap += sums


def compare_ablations(
    run: str, unsampled: Unsampled = "fallback", on_progress: OnProgress = ignore
) -> list[AblationFigures]:
    """The figures of every ablation of a run, in the order of `ablations`; nothing is written.

    Raises:
        InputError: as `derive`.
    """
    return asyncio.run(_compare(Source.open(run), unsampled, on_progress))


async def _compare(source: Source, unsampled: Unsampled, on_progress: OnProgress) -> list[AblationFigures]:
    settings, chat = source.experiment.rewrite, source.run.chat
    compared = {ablation: AblationFigures(ablation.name) for ablation in ablations(settings).values()}
    with VerifierPool(source.experiment.verify) as pool:
        verify = verify_with(pool)
        for part in with_progress(source.part_names, on_progress):
            problems, scores = source.read_part(part), source.read_scores(part)
            experts = [expert_response(problem, chat, source.experiment) for problem, _ in problems]
            for ablation, figures in compared.items():
                replays = (replay_problem(*each, ablation, settings, verify, unsampled) for each in problems)
                for (problem, _), expert, replayed in zip(
                    problems, experts, await asyncio.gather(*replays), strict=True
                ):
                    kept = [attempt.response for attempt in replayed.result.kept]
                    responses = [expert] if replayed.result.origin == "expert" else kept
                    as_scored = [tuple(chat.close_turn(each.token_ids)) for each in responses if each]
                    figures.add(replayed, as_scored, scores.get(problem.problem_id, {}))
    return list(compared.values())
