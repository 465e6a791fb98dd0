"""The tables of the four-way experiment, from the files of its work folder alone."""

from typing import Any

import numpy as np

from fourway.statistics import estimate, holm
from ossft_ray.method.metrics import pass_at_k

KNOWN = 7  # of 8 samples right: what the base can do already
BASE = "base"
Scores = dict[str, dict[str, dict[str, Any]]]


def accuracies(scores: list[Scores], samples: slice = slice(None)) -> np.ndarray:
    """values_SLP: each problem's mean accuracy over `samples`, with one model of `scores` a seed."""
    return np.array(
        [
            [[np.mean(found["correct"][samples]) for found in problems.values()] for problems in model.values()]
            for model in scores
        ]
    )


def differences(by_method: dict[str, list[Scores]], base: Scores, later: str, earlier: str) -> np.ndarray | None:
    """values_SLP of `later` less `earlier`, paired by problem, and by seed as far as both have run; None if not run."""
    num_samples = len(next(iter(next(iter(base.values())).values()))["correct"]) // 2
    after = by_method.get(later, [])
    before = [base] * len(after) if earlier == BASE else by_method.get(earlier, [])
    num_seeds = min(len(before), len(after))
    if not num_seeds:
        return None
    samples = slice(num_samples) if earlier == BASE else slice(None)  # the base's first half has the models' seeds
    return accuracies(after[:num_seeds]) - accuracies(before[:num_seeds], samples)


def accuracy_table(by_method: dict[str, list[Scores]], base: Scores, num_samples: int) -> list[str]:
    levels = list(base)
    shown = levels if len(levels) > 1 else []
    lines = [f"| | seeds | {' | '.join([*shown, 'all'])} |", "|---|---|" + "---|" * (len(shown) + 1)]
    rows = {BASE: (accuracies([base]), "–")}
    rows |= {name: (accuracies(found), str(len(found))) for name, found in by_method.items() if found}
    for name, (values_SLP, seeds) in rows.items():
        cells = [estimate(values_SLP[:, [level]]).percent for level in range(len(shown))]
        lines.append(f"| {name} | {seeds} | {' | '.join([*cells, estimate(values_SLP).percent])} |")
    lines += [
        f"| {name} | not run | {' | '.join([''] * (len(shown) + 1))} |"
        for name, found in by_method.items()
        if not found
    ]
    return [f"Accuracy, % (avg@{num_samples}; the base avg@{2 * num_samples}):", "", *lines, ""]


def contrast_table(
    title: str, contrasts: list[tuple[str, str]], by_method: dict[str, list[Scores]], base: Scores, adjust: bool
) -> list[str]:
    """Paired differences; with `adjust`, p-values of those that have run, adjusted by Holm for the whole list."""
    found = {}
    for later, earlier in contrasts:
        values_SLP = differences(by_method, base, later, earlier)
        found[f"{later} − {earlier}"] = None if values_SLP is None else (len(values_SLP), estimate(values_SLP))
    # a contrast that has not run, or whose values are all alike, counts with p = 1: no other gains from its absence
    p_values = {name: 1.0 if one is None or one[1].p_value is None else one[1].p_value for name, one in found.items()}
    adjusted = holm(p_values)
    lines = [
        "| | seeds | difference, points |" + (" p | p, Holm |" if adjust else ""),
        "|---" * (5 if adjust else 3) + "|",
    ]
    for name, one in found.items():
        if one is None:
            lines.append(f"| {name} | not run | |" + (" | |" if adjust else ""))
            continue
        num_seeds, difference = one
        tests = f" {p_values[name]:.4f} | {adjusted[name]:.4f} |" if adjust else ""
        lines.append(f"| {name} | {num_seeds} | {difference.signed_percent} |{tests}")
    return [title, "", *lines, ""]


def other_table(by_method: dict[str, list[Scores]], base: Scores, num_samples: int) -> list[str]:
    """pass@k, share of responses with an answer, length, and accuracy on what the base can do already.

    The second half of the base's samples says what it can do. Models draw with the seeds of the first half, so one that
    has hardly moved would repeat the very samples that chose its problems.
    """
    ks = [k for k in (1, 2, 4, 8) if k <= num_samples]
    known = {
        (level, problem)
        for level, problems in base.items()
        for problem, found in problems.items()
        if sum(found["correct"][num_samples:]) * 8 >= KNOWN * num_samples
    }
    lines = [
        f"| | {' | '.join(f'pass@{k}' for k in ks)} | with an answer | tokens | on the {len(known)} known problems "
        "| less the base |",
        "|" + "---|" * (len(ks) + 5),
    ]
    for name, models in {BASE: [base], **by_method}.items():
        found = [answers for model in models for problems in model.values() for answers in problems.values()]
        if not found:
            continue
        passes = [100 * np.mean([pass_at_k(len(a["correct"]), sum(a["correct"]), k) for a in found]) for k in ks]
        length = np.mean([count for answers in found for count in answers["tokens"]])
        answered = 100 * np.mean([flag for answers in found for flag in answers.get("answered", [])] or [np.nan])
        samples = slice(num_samples) if name == BASE else slice(None)
        kept = lost = ""
        if known:
            values = _of_problems(models, known, samples)
            kept = estimate(values).percent
            if name != BASE:
                lost = estimate(values - _of_problems([base], known, slice(num_samples))).signed_percent
        cells = [*(f"{value:.1f}" for value in passes), f"{answered:.1f}%", f"{length:.1f}", kept, lost]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["pass@k over all levels (%), form, length, forgetting (%):", "", *lines, ""]


def _of_problems(models: list[Scores], known: set[tuple[str, str]], samples: slice) -> np.ndarray:
    return np.array(
        [[[np.mean(m[level][problem]["correct"][samples]) for level, problem in sorted(known)]] for m in models]
    )


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
    """The mean accuracy at each learning rate, with the lowest and the highest of its seeds."""
    rates = sorted({rate for found in tuned.values() for rate in found["accuracies"]}, key=float)
    lines = [f"| | {' | '.join(rates)} | chosen |", "|" + "---|" * (len(rates) + 2)]
    for name, found in tuned.items():
        cells = []
        for rate in rates:
            values = [100 * value for value in found["accuracies"].get(rate, [])]
            spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "")
        edge = " (edge)" if f"{found['rate']:g}" == rates[-1] else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {found['rate']:g}{edge} |")
    return ["Accuracy on the tuning problems by learning rate, % (0: no training):", "", *lines, ""]
