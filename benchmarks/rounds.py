"""Several rounds against one on the playground, at equal training steps and at equal generated tokens.

    python benchmarks/rounds.py [--minutes 60] [--output runs/rounds] [--seeds 3] [--rounds 3] [--page FILE]

Every model is trained from the base for the same number of optimizer steps, at one learning rate, with DFT on rewritten
rows:

- one round: all steps on the rows of one rewrite
- one round, more samples: the same, with twice as many samples of each stage, and twice again, until one rewrite has
  generated at least as many tokens as any of the rounds below
- rounds: a share of the steps on the rows of each round, each round from the previous round's model
- rounds, unsolved: the same, but a round rewrites only what none has solved so far (`loop.problems = "unsolved"`)
- rounds, unsolved, from the base: each round trains the base again with all steps (`loop.start_from = "base"`)

Everything made is kept in `--output`: what does not fit into `--minutes` is named as not run, and the same command
resumes it. The tables stand between two marks on the page. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from four_way import write_page
from fourway import page
from fourway.lab import BASE, Lab, Method, OutOfTime, Row, Size
from fourway.statistics import estimate
from fourway.worlds import Playground

from ossft_ray.common.storage import Folder
from ossft_ray.config import Rewrite
from ossft_ray.policy.model_location import model_path
from ossft_ray.run_folder.stage_folder import differences

POLICY = Playground.policy.model
LEARNING_RATE = 1e-4  # the one that four_way.py chose for DR+DFT
MORE = "one round, more samples"
_MOST_DOUBLINGS = 5
_ORIGINS = ("self", "guided", "expert")


@dataclass(frozen=True)
class Arm:
    """One way to spend the same training steps."""

    is_repeated: bool = True
    only_unsolved: bool = False
    from_base: bool = False


ONE = "one round"
ROUNDS = {
    "rounds": Arm(),
    "rounds, unsolved": Arm(only_unsolved=True),
    "rounds, unsolved, from the base": Arm(only_unsolved=True, from_base=True),
}
ARMS = {ONE: Arm(is_repeated=False), **ROUNDS, MORE: Arm(is_repeated=False)}
CONTRASTS = [(name, other) for other in (ONE, MORE) for name in ROUNDS]
SMOKE = Size(num_problems=32, epochs=2, batch_size=16, num_heldout=4, num_samples=4)


class RoundsLab(Lab):
    """A lab whose models are trained in rounds."""

    def __init__(self, folder: Folder, size: Size, num_rounds: int, deadline: float) -> None:
        super().__init__(Playground(), folder, size, deadline)
        self.num_rounds = num_rounds

    async def result(self, name: str, seed: int) -> Row:
        """`scores`, and in `rounds` the origins and the number of generated tokens of each round."""
        arm = ARMS[name]
        if (found := self._find("arms", f"{name}-{seed}")) is not None:
            return found
        num_rounds = self.num_rounds if arm.is_repeated else 1
        model = await self._model(name, seed, num_rounds)
        heldout = self.world.heldout_problems(self.size.num_heldout)
        scores = await self._score(f"{name}-{seed}", model, heldout, self.size.num_samples)
        rounds = [await self._rows(name, seed, number) for number in range(1, num_rounds + 1)]
        kept = [{"origins": each["origins"], "tokens": each["tokens"]} for each in rounds]
        self._keep("arms", f"{name}-{seed}", {"scores": scores, "rounds": kept})
        return {"scores": scores, "rounds": kept}

    async def _model(self, name: str, seed: int, number: int) -> str:
        """The model that a round trains; round 0 is the base."""
        arm = ARMS[name]
        if number == 0:
            return model_path(POLICY)
        folder = self.folder / "models" / f"{name}-seed{seed}-round{number}"
        if not folder.exists():
            rows = (await self._rows(name, seed, number))["rows"]
            self._base = await self._model(name, seed, 0 if arm.from_base else number - 1)
            self._begin(f"train {name}, seed {seed}, round {number}")
            is_share = arm.is_repeated and not arm.from_base
            epochs = self.size.epochs // self.num_rounds if is_share else self.size.epochs
            assert folder.local_path is not None
            self._train(rows, Method("dr", "dft", {"epochs": epochs}), LEARNING_RATE, seed, folder.local_path)
        return folder.path

    async def _rows(self, name: str, seed: int, number: int) -> Row:
        """The rows that a round trains on, their origins, and its generated tokens; all but `MORE` share round 1."""
        is_first = number == 1 and name != MORE
        key = f"first-{seed}" if is_first else f"{name}-{seed}-{number}"
        if (found := self._find("data", key)) is not None:
            return found
        if name == MORE:
            made = await self._more(seed)
        else:
            before = {} if is_first else {row["problem_id"]: row for row in await self._rows_before(name, seed, number)}
            solved = {key: row for key, row in before.items() if row["origin"] != "expert"}
            copied = solved if ARMS[name].only_unsolved else {}
            made = await self._rewrite(seed, self.world.rewriting, await self._model(name, seed, number - 1), copied)
        self._keep("data", key, made)
        return made

    async def _rows_before(self, name: str, seed: int, number: int) -> list[Row]:
        rows: list[Row] = (await self._rows(name, seed, number - 1))["rows"]
        return rows

    async def _more(self, seed: int) -> Row:
        """One rewrite by the base, with samples doubled until it has generated as many tokens as each of `ROUNDS`."""
        results = [await self.result(name, seed) for name in ROUNDS]
        wanted = max(sum(each["tokens"] for each in result["rounds"]) for result in results)
        for doublings in range(1, _MOST_DOUBLINGS + 1):
            made = await self._rewrite(seed, _with_samples(self.world.rewriting, 2**doublings), model_path(POLICY), {})
            if made["tokens"] >= wanted:
                break
        return made | {"factor": 2**doublings}

    async def _rewrite(self, seed: int, settings: Rewrite, model: str, copied: dict[str, Row]) -> Row:
        """The rows that `model` makes of the problems that are not in `copied`, together with `copied`."""
        problems = self._problems(seed)
        expert = {problem.problem_id: self._expert_row(problem) for problem in problems}
        self._base, self.generated_tokens = model, 0
        made = await self._rewritten(
            [each for each in problems if each.problem_id not in copied], settings, seed, expert
        )
        rows = copied | {row["problem_id"]: row for row in made}
        ordered = [rows[problem.problem_id] for problem in problems]
        return {
            "rows": ordered,
            "origins": Counter(row["origin"] for row in ordered),
            "tokens": self.generated_tokens,
        }


def _with_samples(settings: Rewrite, factor: int) -> Rewrite:
    stages = {name: getattr(settings, name) for name in ("self_alignment", "guided_alignment")}
    return settings.model_copy(
        update={
            name: stage.model_copy(update={"num_samples": factor * stage.num_samples}) for name, stage in stages.items()
        }
    )


async def run(lab: RoundsLab, seeds: range) -> str:
    """Work through all arms until they are done or the time is up; returns what was next, empty if nothing."""
    try:
        await lab.scores(None, 0)
        for seed in seeds:
            for name in ARMS:
                await lab.result(name, seed)
    except OutOfTime as what:
        return str(what)
    finally:
        lab.shutdown()
    return ""


def tables(folder: Folder, size: Size, seeds: range, num_rounds: int) -> tuple[list[str], dict[str, Any]]:
    """The page's tables and the figures of the last line, from what has been made so far."""

    def found(kind: str, name: str) -> Any:
        return (folder / kind).read_json(f"{name}.json") if (folder / kind).exists(f"{name}.json") else None

    base = found("scores", BASE)
    if base is None:
        return ["Nothing has been run yet."], {}
    results = {name: [each for seed in seeds if (each := found("arms", f"{name}-{seed}"))] for name in ARMS}
    scores = {name: [each["scores"] for each in of_arm] for name, of_arm in results.items()}
    lines = [
        f"{num_rounds} rounds; {size.num_problems} problems, {size.epochs} epochs in all in batches of "
        f"{size.batch_size}, learning rate {LEARNING_RATE:g}; {size.num_heldout} held-out problems a level, "
        f"{size.num_samples} samples each at temperature 1; 95% intervals over seeds and problems.",
        "",
        *page.accuracy_table(scores, base, size.num_samples),
        *page.contrast_table("Paired differences:", CONTRASTS, scores, base, False),
        *page.contrast_table("Less the base:", [(name, BASE) for name in ARMS], scores, base, False),
        "Problems by origin after each round, and the tokens generated in all rounds (means over seeds):",
        "",
        "| | self / guided / expert | tokens |",
        "|---|---|---|",
    ]
    figures: dict[str, Any] = {BASE: {"accuracy": round(estimate(page.accuracies([base])).mean, 4)}}
    for name, of_arm in results.items():
        if not of_arm:
            lines.append(f"| {name} | not run | |")
            continue
        rounds = [
            " / ".join(f"{np.mean([each['origins'].get(origin, 0) for each in of_round]):.0f}" for origin in _ORIGINS)
            for of_round in zip(*(each["rounds"] for each in of_arm), strict=True)
        ]
        tokens = float(np.mean([sum(each["tokens"] for each in result["rounds"]) for result in of_arm]))
        lines.append(f"| {name} | {' → '.join(rounds)} | {tokens:,.0f} |")
        accuracy = estimate(page.accuracies(scores[name])).mean
        figures[name] = {"seeds": len(of_arm), "accuracy": round(accuracy, 4), "tokens": round(tokens)}
    for later, earlier in CONTRASTS:
        values_SLP = page.differences(scores, base, later, earlier)
        if values_SLP is not None:
            difference = estimate(values_SLP)
            half_width = None if difference.half_width is None else round(difference.half_width, 4)
            figures[f"{later} - {earlier}"] = {"difference": round(difference.mean, 4), "half_width": half_width}
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description="rounds against one round")
    parser.add_argument("--output", default="runs/rounds")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=50, help="four_way.py uses the smaller ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("results") / "rounds.md")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes and two rounds: does it run?")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    num_rounds, size = (2, SMOKE) if arguments.smoke else (arguments.rounds, Size())
    if size.epochs % num_rounds:
        parser.error(f"--rounds must divide the {size.epochs} epochs, so that all train for as many steps")
    folder, seeds = Folder.at(arguments.output), range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    settings = json.loads(json.dumps({**asdict(size), "rounds": num_rounds}))
    if folder.exists("size.json") and (changed := differences(folder.read_json("size.json"), settings)):
        raise SystemExit(f"{arguments.output} was made with other sizes ({changed[0]}); choose another --output")
    folder.write_json("size.json", settings)
    lab = RoundsLab(folder, size, num_rounds, time.monotonic() + 60 * arguments.minutes)
    left = asyncio.run(run(lab, seeds))
    lines, figures = tables(folder, size, seeds, num_rounds)
    if left:
        lines.append(f"Not all has been run: next is {left}.")
    write_page(arguments.page, lines, "Rounds against one round")
    print("\n".join(lines), flush=True)
    print(json.dumps({"complete": not left, **figures}))


if __name__ == "__main__":
    main()
