"""SFT, DFT, DR+SFT and DR+DFT from the same base on the playground; then one change at a time.

    python benchmarks/four_way.py [--minutes 60] [--output runs/four_way] [--seeds 3] [--page FILE]

Seeds differ in the problems trained on, in what is drawn for them, and in the order of training. All take the same
number of optimizer steps. Each method's learning rate is the best of one grid on problems of their own. Everything made
is kept in `--output`: what did not fit into `--minutes` is named as not run, and the same command goes on.

The tables stand between two marks of the page; what is written around them stays. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fourway import page
from fourway.experts import EXPERTS
from fourway.lab import BASE, Lab, Method, OutOfTime, Size
from fourway.statistics import estimate

from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.stage_folder import differences

FOUR = {
    "SFT": Method("expert", "sft"),
    "DFT": Method("expert", "dft"),
    "DR+SFT": Method("dr", "sft"),
    "DR+DFT": Method("dr", "dft"),
}
ABLATIONS = {
    "no guided stage": Method("no_guided", "dft"),
    "no self stage": Method("no_self", "dft"),
    "rejection sampling": Method("rejection", "dft"),
    "verified experts only": Method("verified", "dft"),
    **{
        f"DR+{loss}": Method("dr", loss)
        for loss in ("iw_sft", "psft", "dft_k3", "trsft", "idft", "idft_v1", "eaft", "power", "is")
    },
}
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
SMOKE = Size(
    num_problems=32, epochs=1, batch_size=16, num_heldout=4, num_samples=4, num_tuning=2, learning_rates=(1e-4, 3e-4)
)


async def run(lab: Lab, num_seeds: int) -> str:
    """Work through the plan until it is done or the time is up; returns what was next, empty if nothing."""
    try:
        await lab.scores(None, 0)
        for seed in range(num_seeds):
            for expert in EXPERTS:
                await lab.gap(expert, seed)
            for method in FOUR.values():
                await lab.scores(method, seed)
                await lab.gap(method.data, seed)
        for seed in range(num_seeds):
            for method in ABLATIONS.values():
                await lab.scores(method, seed)
                await lab.gap(method.data, seed)
    except OutOfTime as what:
        return str(what)
    finally:
        lab.shutdown()
    return ""


def tables(folder: Folder, size: Size, num_seeds: int) -> tuple[list[str], dict[str, Any]]:
    """The page's tables and the figures of the last line, from what has been made so far."""

    def found(kind: str, name: str) -> Any:
        return (folder / kind).read_json(f"{name}.json") if (folder / kind).exists(f"{name}.json") else None

    def of_seeds(kind: str, pattern: str) -> list[Any]:
        made = [found(kind, pattern.format(seed)) for seed in range(num_seeds)]
        return [one for one in made if one is not None]

    base = found("scores", BASE)
    if base is None:
        return ["Nothing has been run yet."], {}
    four = {name: of_seeds("scores", f"{method.name}-seed{{}}") for name, method in FOUR.items()}
    ablated = {name: of_seeds("scores", f"{method.name}-seed{{}}") for name, method in ABLATIONS.items()}
    data = [*EXPERTS, *dict.fromkeys(method.data for method in (FOUR | ABLATIONS).values())]
    gaps = {name: of_seeds("gaps", f"{name}-{{}}") for name in data}
    tuned = {name: found("tuned", method.name) for name, method in (FOUR | ABLATIONS).items()}
    tuned = {name: one for name, one in tuned.items() if one is not None}
    lines = [
        f"{size.num_problems} problems, {size.epochs} epochs in batches of {size.batch_size}; "
        f"{size.num_heldout} held-out problems a level, {size.num_samples} samples each at temperature 1; "
        "95% intervals over seeds and problems "
        "(with one seed: over problems alone).",
        "",
        "## The four methods",
        "",
        *page.accuracy_table(four, base, size.num_samples),
        *page.difference_table(four, base),
        *page.other_table(four, base, size.num_samples),
        *page.gap_table(gaps),
        *page.tuning_table(tuned),
        "## One change at a time",
        "",
        *page.accuracy_table({"DR+DFT": four["DR+DFT"], **ablated}, base, size.num_samples),
    ]
    figures = {
        name: {"seeds": len(models), "accuracy": round(estimate(page.accuracies(models)).mean, 4)}
        for name, models in (four | ablated).items()
        if models
    }
    return lines, {BASE: {"accuracy": round(estimate(page.accuracies([base])).mean, 4)}, **figures}


def write_page(path: Path, lines: list[str]) -> None:
    """Put the tables between their marks; a page without marks gets them at its end."""
    text = path.read_text() if path.exists() else "# The four-way experiment on the playground\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n" + "\n".join(lines).rstrip() + f"\n\n{END}\n{after.lstrip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="the four-way experiment")
    parser.add_argument("--output", default="runs/four_way")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("results") / "four_way.md")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    size, folder = SMOKE if arguments.smoke else Size(), Folder.at(arguments.output)
    settings = json.loads(json.dumps(asdict(size)))
    if folder.exists("size.json") and (changed := differences(folder.read_json("size.json"), settings)):
        raise SystemExit(f"{arguments.output} was made with other sizes ({changed[0]}); choose another --output")
    folder.write_json("size.json", settings)
    lab = Lab(folder, size, time.monotonic() + 60 * arguments.minutes)
    left = asyncio.run(run(lab, arguments.seeds))
    lines, figures = tables(folder, size, arguments.seeds)
    if left:
        lines.append(f"Not all has been run: next is {left}.")
    write_page(arguments.page, lines)
    print("\n".join(lines))
    sys.stdout.flush()
    print(json.dumps({"complete": not left, **figures}))


if __name__ == "__main__":
    main()
