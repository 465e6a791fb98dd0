"""Accuracy on the playground by which correct responses are trained on, and by what is mixed in.

    python benchmarks/row_choice.py [--minutes 60] [--output runs/row_choice] [--seeds 3] [--page FILE]

For each seed, one rewrite with up to four kept responses a problem is scored. DFT then trains once with each rule of
`[train] select`, and on the experts' solutions, without and with the policy's own rows mixed in. Everything runs
through the stages of `ossft`. What does not fit into `--minutes` is named as not run, and the same command resumes it.
The tables stand between two marks on the page. The last line is a JSON object.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from four_way import write_page
from fourway.experts import mixed_problems
from fourway.statistics import estimate

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.stages.derive.stage import derive
from ossft_ray.stages.evaluate.accuracies import read_samples
from ossft_ray.stages.evaluate.stage import evaluate
from ossft_ray.stages.rewrite import rewrite
from ossft_ray.stages.score import score
from ossft_ray.stages.train import train

LEVELS = [f"playground/level{level}" for level in range(1, 6)]
RULES = ("all", "first", "closest", "rsr", "shortest")
SHARES = (0.25, 1.0)  # tokens of the policy's own rows for each token of the experts
ALONE = "experts"
MODELS = [*(f"select = {rule}" for rule in RULES), ALONE, *(f"{ALONE} + {share} own" for share in SHARES)]
KEYS = {name: f"model{number}" for number, name in enumerate(MODELS)}  # names that `[evaluate] models` takes
CONTRASTS = [(f"select = {rule}", "select = first") for rule in RULES if rule != "first"]
CONTRASTS += [(f"{ALONE} + {share} own", ALONE) for share in SHARES]


def settings(folder: Path, seed: int, num_problems: int, epochs: int) -> dict[str, Any]:
    """The settings of the seed's run; writes its input if there is none."""
    data = folder / "problems.jsonl"
    if not data.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = mixed_problems(num_problems, seed, mistakes=0.1)
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "run": {"output": str(folder / "run"), "seed": seed},
        "policy": {"model": "playground", "dtype": "float32"},
        "data": {"path": str(data), "columns": {"question": "question", "expert_solution": "expert_solution"}},
        "rewrite": {
            "keep_per_problem": 4,
            "self_alignment": {"max_tokens": 128},
            "guided_alignment": {"max_tokens": 128, "hide_answer": False},
        },
        "train": {
            "learning_rate": 1e-4,
            "epochs": epochs,
            "global_batch_size": 32,
            "max_length": 512,
            "micro_batch_tokens": 4096,
            "precision": "fp32",
            "zero_stage": 0,
        },
        "evaluate": {"benchmarks": LEVELS, "num_samples": 8, "max_tokens": 128, "cache": ""},
    }


def with_(plain: dict[str, Any], **sections: dict[str, Any]) -> Experiment:
    return resolve(plain | {name: plain.get(name, {}) | changed for name, changed in sections.items()})


def train_all(folder: Path, plain: dict[str, Any], deadline: float) -> bool:
    """Make the rows and the models of a seed; returns whether all are there."""
    run = plain["run"]["output"]
    rewrite(resolve(plain))
    score(resolve(plain))
    experts, own = str(folder / "experts"), str(folder / "own")
    for target, ablation in ((experts, "experts"), (own, "rejection_sampling")):
        if not Path(target).exists():
            derive(run, target, ablation)
    mixed = [{"run": {"output": experts}, "train": {}}]
    mixed += [
        {"run": {"output": experts}, "train": {"mix": [{"examples": f"{own}/rewrite", "weight": share}]}}
        for share in SHARES
    ]
    changes = [*({"train": {"select": rule}} for rule in RULES), *mixed]
    for key, changed in zip(KEYS.values(), changes, strict=True):
        model = folder / "models" / key
        if model.exists():
            continue
        if time.monotonic() > deadline:
            return False
        experiment = with_(plain, **changed)
        found = train(experiment, start_over=True)
        trained = Path(experiment.run.output) / "train"
        (trained / "model" / "steps.json").write_text(json.dumps(found["steps"]))
        model.parent.mkdir(exist_ok=True)
        shutil.move(trained / "model", model)
        shutil.rmtree(trained)  # otherwise the run would list a trained model that has moved
    return True


def accuracies(folder: Path, models: list[str]) -> dict[str, np.ndarray]:
    """accuracies_LP of each model by level and problem."""
    found = Folder.at(str(folder / "run" / "evaluate"))
    return {
        name: np.array(
            [
                [np.mean([s.correct for s in samples]) for samples in read_samples(found / name, level).values()]
                for level in LEVELS
            ]
        )
        for name in models
    }


def tables(by_seed: list[dict[str, np.ndarray]], steps: dict[str, list[int]], names: dict[str, str]) -> list[str]:
    """The page's tables; `by_seed` has accuracies_LP by key, `names` the key of each model's name."""
    values_SLP = {name: np.array([of_seed[key] for of_seed in by_seed]) for name, key in names.items()}
    lines = ["| | steps | level 1 | level 2 | level 3 | level 4 | level 5 | all |", "|---|---|---|---|---|---|---|---|"]
    for name, values in values_SLP.items():
        cells = [*(estimate(values[:, [level]]).percent for level in range(len(LEVELS))), estimate(values).percent]
        shown = ", ".join(map(str, dict.fromkeys(steps.get(name, []))))
        lines.append(f"| {name} | {shown or '–'} | {' | '.join(cells)} |")
    lines += ["", "| difference, points | level 1 | all |", "|---|---|---|"]
    for later, earlier in [*((name, "base") for name in MODELS), *CONTRASTS]:
        difference = values_SLP[later] - values_SLP[earlier]
        cells = [estimate(each).signed_percent for each in (difference[:, [0]], difference)]
        lines.append(f"| {later} − {earlier} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/row_choice"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=70)
    parser.add_argument("--page", type=Path, default=Path(__file__).with_name("results") / "row_choice.md")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    deadline = time.monotonic() + 60 * arguments.minutes
    num_problems, epochs = (64, 1) if arguments.smoke else (480, 3)
    keys = {"base": "base", **KEYS}
    by_seed: list[dict[str, np.ndarray]] = []
    steps: dict[str, list[int]] = {name: [] for name in MODELS}
    missing: list[int] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        folder = (arguments.output / f"seed{seed}").resolve()
        plain = settings(folder, seed, num_problems, epochs)
        if time.monotonic() > deadline or not train_all(folder, plain, deadline):
            missing.append(seed)
            continue
        models = {key: str(folder / "models" / key) for key in KEYS.values()}
        evaluate(with_(plain, evaluate={"models": models}))
        by_seed.append(accuracies(folder, list(keys.values())))
        for name in MODELS:
            steps[name].append(json.loads((folder / "models" / KEYS[name] / "steps.json").read_text()))
    if not by_seed:
        raise SystemExit("nothing is complete yet; the same command resumes it")
    lines = [
        f"{num_problems} problems, {epochs} epochs in batches of 32, DFT at 1e-4; {len(by_seed)} "
        f"{'seed' if len(by_seed) == 1 else 'seeds'}; 8 samples a problem at temperature 1; accuracy in %, 95% "
        "intervals over seeds and problems.",
        "",
        *tables(by_seed, steps, keys),
    ]
    if missing:
        lines += ["", f"Not run: seeds {', '.join(map(str, missing))}."]
    write_page(arguments.page, lines, "Which rows to train on")
    print("\n".join(lines), flush=True)
    means = {name: float(np.mean([of_seed[key] for of_seed in by_seed])) for name, key in keys.items()}
    print(json.dumps({"complete": not missing, **{name: round(mean, 4) for name, mean in means.items()}}))


if __name__ == "__main__":
    main()
