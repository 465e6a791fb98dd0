"""How much of the guide may a guided response share before it counts as copied? As much as `self` responses do.

A response that never saw the expert's solution shares some runs of words with it all the same: the question's wording,
the same equations. How many depends on the data. So the limit is calibrated on `self` responses of the run's first
problems against expert solutions that they never saw. The draws are the run's own (same seeds), so every worker finds
the same limit, whatever else it works on; the first to finish writes it down.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, PromptTooLong, Response, Stage
from ossft_ray.config import Experiment
from ossft_ray.method.acceptance import calibrate
from ossft_ray.method.rewriting import Verify, is_finished, share_of_guide
from ossft_ray.run_folder.names import PARTS, PROBLEMS

CALIBRATION = "calibration.json"
_NUM_PROBLEMS = 256
Draw = Callable[[Problem, Stage, int], Awaitable[Response]]


class Calibration:
    """One worker's way to the limit; what it draws for it is shared with the rewriting of the same problems."""

    def __init__(self, folder: Folder, experiment: Experiment, draw: Draw, verify: Verify) -> None:
        self._folder, self._ngram = folder, experiment.rewrite.guided_alignment.copied_ngram
        self._draw, self._verify = draw, verify
        self._lock = asyncio.Lock()
        self._limit: float | None = None
        self._problems: dict[str, Problem] | None = None
        rewrite = experiment.rewrite
        self._is_wanted = rewrite.guided_alignment.max_copied == "auto" and "guided" in rewrite.stages
        self._shared: dict[str, asyncio.Future[Response]] = {}

    async def draw(self, problem: Problem, stage: Stage, index: int) -> Response:
        """A draw of the run, made once where calibration needs it too."""
        is_first = (stage, index) == ("self", 0)
        if is_first and problem.problem_id in self._chosen() and problem.problem_id not in self._shared:
            self._shared[problem.problem_id] = asyncio.ensure_future(self._draw(problem, stage, index))
        if is_first and problem.problem_id in self._shared:
            return await asyncio.shield(self._shared[problem.problem_id])
        return await self._draw(problem, stage, index)

    async def max_copied(self) -> float:
        """The limit, 0..1: as written down before, or calibrated now."""
        async with self._lock:
            if self._limit is None and self._folder.exists(CALIBRATION):
                self._limit = self._folder.read_json(CALIBRATION)["max_copied"]
            if self._limit is None:
                shares = await asyncio.gather(*map(self._unseen_share, self._chosen().values()))
                known = [share for share in shares if share is not None]
                self._limit = calibrate(known)
                self._folder.write_json(CALIBRATION, {"max_copied": self._limit, "unseen_shares": sorted(known)})
            return self._limit

    def _chosen(self) -> dict[str, Problem]:
        """The first problems as laid out that have an answer, by id; none once the limit is known or not wanted."""
        if not self._is_wanted or self._limit is not None:
            return {}
        if self._problems is None:
            self._problems = {}
            problems = self._folder / PROBLEMS
            for part in problems.names(PARTS):
                rows = problems.read_table(part).to_pylist()
                self._problems |= {row["problem_id"]: Problem(**row) for row in rows if row["answer"]}
                if len(self._problems) >= _NUM_PROBLEMS:
                    break
            self._problems = dict(list(self._problems.items())[:_NUM_PROBLEMS])
        return self._problems

    async def _unseen_share(self, problem: Problem) -> float | None:
        """What a correct `self` response shares with the expert solution that it never saw; None if it is wrong."""
        try:
            response = await self.draw(problem, "self", 0)
        except PromptTooLong:
            return None
        if not is_finished(response) or not (await self._verify(problem, response.text)).correct:
            return None
        return share_of_guide(response, problem, self._ngram)
