"""The tables of the four-way experiment, from the files of its work folder alone."""

from itertools import combinations
from typing import Any

import numpy as np

from fourway.statistics import estimate
from ossft_ray.method.metrics import pass_at_k

LEVELS = [f"level{level}" for level in range(1, 6)]
KNOWN = 7  # of 8 samples right: what the base can do already
Scores = dict[str, dict[str, dict[str, Any]]]


def accuracies(scores: list[Scores], samples: slice = slice(None)) -> np.ndarray:
    """values_SLP: each problem's mean accuracy over `samples`, a model of `scores` a seed."""
    return np.array(
        [
            [[np.mean(found["correct"][samples]) for found in model[level].values()] for level in LEVELS]
            for model in scores
        ]
    )


def accuracy_table(by_method: dict[str, list[Scores]], base: Scores, num_samples: int) -> list[str]:
    lines = ["| | seeds | 1 | 2 | 3 | 4 | 5 | all |", "|---|---|---|---|---|---|---|---|"]
    rows = {"base": (accuracies([base]), "–")}
    rows |= {name: (accuracies(found), str(len(found))) for name, found in by_method.items() if found}
    for name, (values_SLP, seeds) in rows.items():
        cells = [estimate(values_SLP[:, [level]]).percent for level in range(len(LEVELS))]
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} | {estimate(values_SLP).percent} |")
    lines += [f"| {name} | not run | | | | | | |" for name, found in by_method.items() if not found]
    return [f"Accuracy by level, % (avg@{num_samples}; the base avg@{2 * num_samples}):", "", *lines, ""]


def difference_table(by_method: dict[str, list[Scores]], base: Scores) -> list[str]:
    """Paired by problem, and by seed as far as both methods have run."""
    lines = ["| | seeds | 1 | 2 | 3 | 4 | 5 | all |", "|---|---|---|---|---|---|---|---|"]
    pairs = [("base", name) for name in by_method] + list(combinations(by_method, 2))
    for before, after in pairs:
        later = by_method[after]
        earlier = [base] * len(later) if before == "base" else by_method[before]
        num_seeds = min(len(earlier), len(later))
        if num_seeds:
            values_SLP = accuracies(later[:num_seeds]) - accuracies(earlier[:num_seeds])
            cells = [estimate(values_SLP[:, [level]]).signed_percent for level in range(len(LEVELS))]
            whole = estimate(values_SLP)
            mark = " *" if whole.is_clear else ""
            lines.append(f"| {after} − {before} | {num_seeds} | {' | '.join(cells)} | {whole.signed_percent}{mark} |")
    return ["Paired differences, points (`*`: the interval leaves out zero):", "", *lines, ""]


def other_table(by_method: dict[str, list[Scores]], base: Scores, num_samples: int) -> list[str]:
    """pass@k over all levels, response length, and accuracy on what the base can do already.

    The base's second half of samples says what it can do. A model draws with the seeds of the first, and one that has
    hardly moved would repeat the very samples by which its problems were chosen.
    """
    ks = [k for k in (1, 2, 4, 8) if k <= num_samples]
    known = {
        (level, problem)
        for level in LEVELS
        for problem, found in base[level].items()
        if sum(found["correct"][num_samples:]) * 8 >= KNOWN * num_samples
    }
    lines = [
        f"| | {' | '.join(f'pass@{k}' for k in ks)} | tokens | on the {len(known)} known problems |",
        "|" + "---|" * (len(ks) + 3),
    ]
    for name, models in {"base": [base], **by_method}.items():
        found = [answers for model in models for level in LEVELS for answers in model[level].values()]
        if not found:
            continue
        passes = [100 * np.mean([pass_at_k(len(a["correct"]), sum(a["correct"]), k) for a in found]) for k in ks]
        length = np.mean([count for answers in found for count in answers["tokens"]])
        samples = slice(num_samples) if name == "base" else slice(None)
        kept = ""
        if known:
            values = np.array([[[np.mean(m[lv][p]["correct"][samples]) for lv, p in sorted(known)]] for m in models])
            kept = estimate(values).percent
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in passes)} | {length:.1f} | {kept} |")
    return ["pass@k over all levels (%), length, forgetting (%):", "", *lines, ""]


def gap_table(gaps: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "| data | seeds | self / guided / expert | mean log p | perplexity | ESS | Var(p) "
        "| sd of log p(response) | tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in gaps.items():
        if not found:
            lines.append(f"| {name} | not run | | | | | | | |")
            continue
        mean = {key: np.mean([one[key] for one in found]) for key in found[0] if key != "origins"}
        origins = [sum(one["origins"].get(key, 0) for one in found) for key in ("self", "guided", "expert")]
        lines.append(
            f"| {name} | {len(found)} | {' / '.join(map(str, origins))} | {mean['mean_logprob']:.3f} | "
            f"{mean['perplexity']:.2f} | {mean['effective_sample_size']:.3f} | {mean['weight_variance']:.4f} | "
            f"{mean['response_logprob_deviation']:.2f} | {mean['tokens']:.1f} |"
        )
    return ["The gap of each data set, as the base sees it (means over seeds, problems summed):", "", *lines, ""]


def tuning_table(tuned: dict[str, dict[str, Any]]) -> list[str]:
    rates = sorted({rate for found in tuned.values() for rate in found["accuracy"]}, key=float)
    lines = [f"| | {' | '.join(rates)} | chosen |", "|" + "---|" * (len(rates) + 2)]
    for name, found in tuned.items():
        cells = [f"{100 * found['accuracy'][rate]:.1f}" if rate in found["accuracy"] else "" for rate in rates]
        edge = " (edge)" if f"{found['rate']:g}" in (rates[0], rates[-1]) else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {found['rate']:g}{edge} |")
    return ["Accuracy on the tuning problems by learning rate, %:", "", *lines, ""]
