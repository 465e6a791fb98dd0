"""The whole job with a real language model on real problems: SmolLM2-135M-Instruct on GSM8K.

    python benchmarks/real_model.py [--problems 48] [--data FILE] [--output runs/real_model] [--page FILE]
    python benchmarks/real_model.py --experiment [--minutes 180] [--seeds 3] [--only METHOD ...]

The first problems of the file are rewritten and trained on, its last ones evaluated. `--data` is GSM8K's training split
as JSONL, by default `gsm8k_train.jsonl` in the folder that $OSSFT_TEST_DATA names. The model comes from a package (see
`smollm2.py`). The same command resumes. The page holds the results with all guided rows that were kept, so that they
can be read; the last line is a JSON object.

`--experiment` trains SFT, DFT, DR+SFT and DR+DFT and the controls of `four_way.py` from one base, as far as `--minutes`
allow, and writes its own page. The base is the model after a warm-up on other problems of GSM8K. Several processes with
different `--only` may share one `--output` and one GPU.
"""

import argparse
import functools
import json
import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import four_way
from fourway.lab import DEVICE, Lab, Size
from fourway.worlds import Gsm8k
from smollm2 import smollm2

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.report import report
from ossft_ray.stages.evaluate import evaluate
from ossft_ray.stages.rewrite import rewrite
from ossft_ray.stages.score import score
from ossft_ray.stages.train import train

MAX_TOKENS = 256
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class FourWays:
    """Sizes of `--experiment`; `max_steps` is the most calculations that a problem's solution may have."""

    size: Size
    max_steps: int | None
    warm_up_problems: int
    warm_up_epochs: int


_COMMON = {"mistakes": 0.0, "num_samples": 4, "tuning_seeds": 2}  # GSM8K's own solutions
FOUR_WAYS = {
    "cpu": FourWays(
        Size(
            num_problems=192,
            epochs=1,
            batch_size=8,
            num_heldout=200,
            num_tuning=100,
            learning_rates=(2e-5, 1e-4),
            **_COMMON,
        ),
        max_steps=2,
        warm_up_problems=240,
        warm_up_epochs=2,
    ),
    "cuda": FourWays(
        Size(
            num_problems=400,
            epochs=2,
            batch_size=16,
            num_heldout=1000,
            num_tuning=250,
            learning_rates=(5e-6, 2e-5, 8e-5),
            **_COMMON,
        ),
        max_steps=None,
        warm_up_problems=2000,
        warm_up_epochs=3,
    ),
}
WARM_UP_RATE = 1e-4


def make_experiment(
    data: Path, output: Path, num_problems: int, num_heldout: int, max_tokens: int = MAX_TOKENS
) -> Experiment:
    """The experiment on the first problems of `data`, evaluated on the last ones, which are written to a file."""
    output.mkdir(parents=True, exist_ok=True)
    with data.open(encoding="utf-8") as file:
        rows = [line for line in file if line.strip()]
    if num_problems + num_heldout > len(rows):
        raise SystemExit(f"{data} has {len(rows)} rows; choose fewer than {num_problems} problems")
    heldout = output / "heldout.jsonl"
    heldout.write_text("".join(islice(rows, len(rows) - num_heldout, None)), encoding="utf-8")
    sampling = {"max_tokens": max_tokens}
    return resolve(
        {
            "run": {"output": str(output)},
            "policy": {"model": str(smollm2()), "engine": {"max_model_len": 2048}},
            "data": {"path": str(data), "limit": num_problems},
            "prompts": {"template": "qwen-boxed"},
            "rewrite": {
                "keep_attempts": True,
                "self_alignment": {"num_samples": 4, **sampling},
                "guided_alignment": {"num_samples": 4, **sampling},
            },
            "train": {"global_batch_size": 16, "max_length": 1024, "learning_rate": 2e-5, "zero_stage": 0},
            "evaluate": {"benchmarks": [str(heldout)], "num_samples": 2, **sampling},
        }
    )


def run(experiment: Experiment) -> dict[str, Any]:
    """Run all stages; returns their figures and the guided rows that were kept."""
    seconds: dict[str, float] = {}
    figures: dict[str, Any] = {"seconds": seconds}
    for name, stage in {"rewrite": rewrite, "score": score, "train": train, "evaluate": evaluate}.items():
        started = time.monotonic()
        figures[name] = stage(experiment)
        seconds[name] = round(time.monotonic() - started, 1)
    report(experiment)
    folder = Folder.at(experiment.run.output) / "rewrite"
    rows = [row for part in folder.names("part-*.parquet") for row in folder.read_table(part).to_pylist()]
    figures["guided_rows"] = {row["problem_id"]: row["response"] for row in rows if row["origin"] == "guided"}
    return figures


def render_page(figures: dict[str, Any], num_problems: int) -> str:
    """The page of results, as Markdown."""
    rewriting, scoring, accuracies = figures["rewrite"], figures["score"], figures["evaluate"]
    num_heldout = max(result["problems"] for of_model in accuracies.values() for result in of_model.values())
    origins = ", ".join(f"{count} {origin}" for origin, count in rewriting["origins"].items())
    lines = [
        "# A real model on real problems",
        "",
        f"`python benchmarks/real_model.py --problems {num_problems} --heldout {num_heldout}`: SmolLM2-135M-Instruct "
        "on GSM8K, on CPUs. [Guided rows](../../docs/guided_rows.md) says how sound the guided rows are.",
        "",
        f"- kept solutions: {origins}; {rewriting['answers_appended']} experts' answers put into a box",
        *(
            f"- attempts, {stage}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            for stage, reasons in rewriting["reasons"].items()
        ),
        f"- tokens generated: {rewriting['generated_tokens']:,}",
        *(
            f"- mean log p of {words}: {scoring[group]['mean_logprob']:.3f}"
            for group, words in {"kept": "the kept rows", "expert_originals": "the experts' originals"}.items()
        ),
        *(
            f"- {model}: {100 * result['avg']:.1f}% right ({100 * result['low']:.1f} to {100 * result['high']:.1f}) of "
            f"{result['problems']} problems, {100 * result['finished']:.0f}% finished, "
            f"{100 * result['answered']:.0f}% with an answer, {result['mean_tokens']:.0f} tokens each"
            for model, by_benchmark in accuracies.items()
            for result in by_benchmark.values()
        ),
        "- seconds: " + ", ".join(f"{stage} {value:.0f}" for stage, value in figures["seconds"].items()),
        "",
        "## The guided rows that were kept",
        "",
        *(
            f"Problem {name}:\n\n    " + text.replace("\n", "\n    ") + "\n"
            for name, text in figures["guided_rows"].items()
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"


def run_four_ways(data: Path, options: argparse.Namespace) -> None:
    """SFT, DFT, DR+SFT and DR+DFT from the warmed-up model, then the controls."""
    sizes = FourWays(four_way.SMOKE, 2, 32, 1) if options.smoke else FOUR_WAYS[DEVICE]
    world = Gsm8k(smollm2(), data, sizes.max_steps)
    problems = world.warm_up_problems(sizes.warm_up_problems)
    warm_up = functools.partial(Lab.warm_up, problems=problems, epochs=sizes.warm_up_epochs, learning_rate=WARM_UP_RATE)
    # its experts are always right, so the method on experts' rows is already the placebo of correct solutions
    controls = {name: method for name, method in four_way.CONTROLS.items() if method.data != "verified"}
    seeds = range(options.seeds)
    plan = four_way.Plan(seeds, seeds[:1], four_way.FOUR, controls)
    page = options.page or RESULTS / "real_model_four_way.md"
    four_way.experiment(world, str(options.output), sizes.size, plan, options.minutes, page, warm_up, options.only)


def run_whole_job(options: argparse.Namespace) -> None:
    """All stages once, and their page."""
    experiment = make_experiment(options.data, options.output, options.problems, options.heldout, options.max_tokens)
    figures = run(experiment)
    page = render_page(figures, options.problems)
    (options.page or RESULTS / "real_model.md").write_text(page, encoding="utf-8")
    print(page)
    summary = {name: figures["rewrite"][name] for name in ("origins", "reasons", "generated_tokens")}
    print(json.dumps(summary | {"accuracies": figures["evaluate"], "seconds": figures["seconds"]}))


def main() -> None:
    folder = os.environ.get("OSSFT_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=48)
    parser.add_argument("--heldout", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of a response")
    parser.add_argument("--data", type=Path, default=Path(folder, "gsm8k_train.jsonl") if folder else None)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--experiment", action="store_true", help="the four ways and the controls from one base")
    parser.add_argument("--minutes", type=float, default=180.0, help="of the experiment")
    parser.add_argument("--seeds", type=int, default=3, help="of the experiment")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="run these of the experiment, and write no page")
    parser.add_argument("--smoke", action="store_true", help="the experiment with tiny sizes: does it run?")
    options = parser.parse_args()
    if options.data is None:
        parser.error("give GSM8K's training split with --data, or its folder as OSSFT_TEST_DATA")
    options.output = options.output or Path("runs/real_model_four_way" if options.experiment else "runs/real_model")
    if options.experiment:
        run_four_ways(options.data, options)
    else:
        run_whole_job(options)


if __name__ == "__main__":
    main()
