"""SFT, DFT, DR+SFT and DR+DFT from the same base on the playground; then controls and further losses.

    python benchmarks/four_way.py [--minutes 60] [--output runs/four_way] [--seeds 8] [--page FILE] [--only METHOD ...]

Seeds differ in the problems trained on, in what is drawn for them, and in the order of training. All take the same
number of optimizer steps. Each method takes the learning rate of one grid, which includes "no training", that does best
on separate tuning problems; controls and further losses take that of DR+DFT. Everything made is kept in `--output`:
what does not fit into `--minutes` is named as not run, and the same command resumes it. Several processes with
different `--only` may share one `--output`; run the command without `--only` to make the page.
`real_model.py --experiment` does the same on a real model.

The tables stand between two marks on the page; the text around them stays. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from fourway import page
from fourway.experts import EXPERTS
from fourway.lab import BASE, Lab, Method, OutOfTime, Size
from fourway.statistics import estimate
from fourway.worlds import Playground, World

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.stage_folder import differences

FOUR = {
    "SFT": Method("expert", "sft"),
    "DFT": Method("expert", "dft"),
    "DR+SFT": Method("dr", "sft"),
    "DR+DFT": Method("dr", "dft"),
}
PLACEBO = {"placebo+DFT": Method("placebo", "dft")}  # has its own learning rate, because it is compared with DR+DFT
_RATE = FOUR["DR+DFT"].name
CONTROLS = {
    "no guided stage": Method("no_guided", "dft", rate_of=_RATE),
    "no self stage": Method("no_self", "dft", rate_of=_RATE),
    "rejection sampling": Method("rejection", "dft", rate_of=_RATE),
    "no expert rows": Method("dropped", "dft", rate_of=_RATE),
    "verified experts only": Method("verified", "dft", rate_of=_RATE),
    "shuffled guides": Method("shuffled", "dft", rate_of=_RATE),
    "answer in guides hidden or shown, the other way": Method("other_guide", "dft", rate_of=_RATE),
    "unsound guided rows kept": Method("unchecked", "dft", rate_of=_RATE),
    "mean over each example, as the authors": Method("dr", "dft", {"mean_over": 1}, rate_of=_RATE),
}
LOSSES = {
    f"DR+{loss}": Method("dr", loss, rate_of=_RATE)
    for loss in ("iw_sft", "psft", "dft_k3", "trsft", "idft", "idft_v1", "eaft", "power", "is")
}
PRIMARY = [
    ("DR+DFT", BASE),
    ("DR+DFT", "SFT"),
    ("DR+DFT", "DFT"),
    ("DR+DFT", "DR+SFT"),
    ("DR+DFT", "placebo+DFT"),
    ("DFT", "SFT"),
    ("DR+SFT", "SFT"),
]
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
SMOKE = Size(
    num_problems=32,
    epochs=1,
    batch_size=16,
    num_heldout=4,
    num_samples=4,
    num_tuning=2,
    learning_rates=(1e-4, 3e-4),
    tuning_seeds=1,
)


@dataclass(frozen=True)
class Plan:
    """Which methods are run, on which seeds, in this order."""

    seeds: range  # of the methods of the primary contrasts
    control_seeds: range  # of the others
    primary: dict[str, Method]
    others: dict[str, Method]
    experts: tuple[str, ...] = ()  # data sets whose gap is shown as well

    @property
    def methods(self) -> dict[str, Method]:
        return self.primary | self.others

    def only(self, names: list[str]) -> "Plan":
        """The plan with these methods alone."""
        if unknown := set(names) - set(self.methods):
            raise SystemExit(f"no method {sorted(unknown)[0]!r}; there are {', '.join(map(repr, self.methods))}")
        primary, others = (
            {name: method for name, method in methods.items() if name in names}
            for methods in (self.primary, self.others)
        )
        return replace(self, primary=primary, others=others, experts=())

    def seeds_of(self, name: str) -> range:
        return self.seeds if name in self.primary else self.control_seeds


async def run(lab: Lab, plan: Plan, warm_up: Callable[[Lab], Awaitable[None]] | None = None) -> str:
    """Work through the plan until it is done or the time is up; returns what was next, empty if nothing."""
    try:
        if warm_up is not None:
            await warm_up(lab)
        await lab.scores(None, 0)
        for method in plan.primary.values():
            await lab.tuned(method)
        for seed in plan.seeds:
            for data in plan.experts:
                await lab.gap(data, seed)
            for method in plan.primary.values():
                await lab.scores(method, seed)
                await lab.gap(method.data, seed)
        for seed in plan.control_seeds:
            for method in plan.others.values():
                await lab.scores(method, seed)
                await lab.gap(method.data, seed)
    except OutOfTime as what:
        return str(what)
    finally:
        lab.shutdown()
    return ""


def tables(folder: Folder, size: Size, plan: Plan) -> tuple[list[str], dict[str, Any]]:
    """The page's tables and the figures of the last line, from what has been made so far."""

    def found(kind: str, name: str) -> Any:
        return (folder / kind).read_json(f"{name}.json") if (folder / kind).exists(f"{name}.json") else None

    def of_seeds(kind: str, pattern: str, seeds: range) -> list[Any]:
        made = [found(kind, pattern.format(seed)) for seed in seeds]
        return [one for one in made if one is not None]

    base = found("scores", BASE)
    if base is None:
        return ["Nothing has been run yet."], {}
    scores = {
        name: of_seeds("scores", f"{method.name}-seed{{}}", plan.seeds_of(name))
        for name, method in plan.methods.items()
    }
    primary = {name: scores[name] for name in plan.primary}
    others = {name: scores[name] for name in plan.others}
    data = dict.fromkeys([*plan.experts, *(method.data for method in plan.methods.values())])
    gaps = {name: of_seeds("gaps", f"{name}-{{}}", plan.seeds) for name in data}
    tuned = {name: found("tuned", method.name) for name, method in plan.primary.items()}
    contrasts = [pair for pair in PRIMARY if pair[0] in primary and pair[1] in {BASE, *primary}]
    pairs = [*((name, BASE) for name in primary), *((after, before) for before, after in combinations(primary, 2))]
    lines = [
        f"{size.num_problems} problems, {size.epochs} {'epoch' if size.epochs == 1 else 'epochs'} in batches of "
        f"{size.batch_size}; {size.num_heldout} held-out problems{' a level' if len(base) > 1 else ''}, "
        f"{size.num_samples} samples each at temperature 1; 95% intervals over seeds and problems "
        "(with one seed: over problems alone).",
        "",
        "## Primary contrasts",
        "",
        *page.contrast_table(
            "Paired differences, with p-values adjusted for the number of these rows:", contrasts, primary, base, True
        ),
        "## The methods",
        "",
        *page.accuracy_table(primary, base, size.num_samples),
        *page.contrast_table(
            "All paired differences:", [pair for pair in pairs if pair not in contrasts], primary, base, False
        ),
        *page.other_table(primary, base, size.num_samples),
        *page.gap_table(gaps),
        *page.tuning_table({name: one for name, one in tuned.items() if one is not None}),
        "## Controls and further losses",
        "",
        "At the learning rate of DR+DFT.",
        "",
        *page.accuracy_table(others, base, size.num_samples),
        *page.contrast_table("Less DR+DFT:", [(name, "DR+DFT") for name in others], scores, base, False),
    ]
    figures = {
        name: {"seeds": len(models), "accuracy": round(estimate(page.accuracies(models)).mean, 4)}
        for name, models in scores.items()
        if models
    }
    return lines, {BASE: {"accuracy": round(estimate(page.accuracies([base])).mean, 4)}, **figures}


def write_page(path: Path, lines: list[str], title: str = "The four-way experiment") -> None:
    """Put the tables between their marks; a page without marks gets them at its end."""
    text = path.read_text() if path.exists() else f"# {title}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n" + "\n".join(lines).rstrip() + f"\n\n{END}\n{after.lstrip()}")


def experiment(
    world: World,
    output: str,
    size: Size,
    plan: Plan,
    minutes: float,
    page_path: Path,
    warm_up: Callable[[Lab], Awaitable[None]] | None = None,
    only: list[str] | None = None,
) -> None:
    """Run the plan as far as `minutes` reach, write the page, and print it with a last line of JSON.

    With `only`, run just these methods and write no page.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder = Folder.at(output)
    settings = json.loads(json.dumps(asdict(size)))
    if folder.exists("size.json") and (changed := differences(folder.read_json("size.json"), settings)):
        raise SystemExit(f"{output} was made with other sizes ({changed[0]}); choose another --output")
    folder.write_json("size.json", settings)
    lab = Lab(world, folder, size, time.monotonic() + 60 * minutes)
    left = asyncio.run(run(lab, plan.only(only) if only else plan, warm_up))
    if only:
        print(f"next is {left}" if left else "done")
        return
    lines, figures = tables(folder, size, plan)
    if left:
        lines.append(f"Not all has been run: next is {left}.")
    write_page(page_path, lines)
    print("\n".join(lines))
    sys.stdout.flush()
    print(json.dumps({"complete": not left, **figures}))


def main() -> None:
    parser = argparse.ArgumentParser(description="the four-way experiment")
    parser.add_argument("--output", default="runs/four_way")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--control-seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10, help="seeds 0 to 2 were used by an earlier experiment")
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("results") / "four_way_preregistered.md")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="run these, and write no page")
    arguments = parser.parse_args()
    first = arguments.first_seed
    plan = Plan(
        range(first, first + arguments.seeds),
        range(first, first + arguments.control_seeds),
        FOUR | PLACEBO,
        CONTROLS | LOSSES,
        EXPERTS,
    )
    size = SMOKE if arguments.smoke else Size()
    experiment(Playground(), arguments.output, size, plan, arguments.minutes, arguments.page, only=arguments.only)


if __name__ == "__main__":
    main()
