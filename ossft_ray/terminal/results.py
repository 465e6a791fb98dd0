"""The results of finished stages: tables and lines, where the files are, and the next command."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from ossft_ray.common.durations import duration
from ossft_ray.common.types import ORIGINS, PAPERS_STAGES
from ossft_ray.common.uris import join
from ossft_ray.common.verdict import UNJUDGED
from ossft_ray.config import Experiment
from ossft_ray.method.metrics import mean_interval
from ossft_ray.run_folder.names import ACCURACIES, BASE, EVALUATE, MANIFEST, MODEL, REWRITE, SCORE, TRAIN
from ossft_ray.terminal.bars import print_lines, wrapped

if TYPE_CHECKING:
    from ossft_ray.stages.install_check import Finding

KEPT = {
    "self": "the policy's own (self)",
    "guided": "re-solved with guidance (guided)",
    "external": "re-solved by another model (external)",
    "expert": "the expert's (expert)",
    "dropped": "none (dropped)",
}
Results = dict[str, dict[str, dict[str, Any]]]  # by model and benchmark, as in `evaluate/scores.json`
_WORDS = {True: "passed", False: "FAILED", None: "skipped"}


def print_rewriting(experiment: Experiment, manifest: dict[str, Any], following: str) -> None:
    """The funnel, its costs, and the folder of the examples; `manifest` is that of `rewrite/`.

    `following` is the command that comes next, with its options, here and below.
    """
    doubtful = [part for line in doubtful_answers(experiment.run.output, manifest) for part in wrapped(line)]
    files = f"examples: {join(experiment.run.output, REWRITE)}"
    origins = origins_table(manifest, experiment.rewrite.stages)
    print_lines([origins, rewriting_costs(manifest), *doubtful, files, f"next: {following}"])


def print_scoring(experiment: Experiment, manifest: dict[str, Any], following: str) -> None:
    """The policy gap, and the folder of the log-probabilities; `manifest` is that of `score/`."""
    files = f"log-probabilities: {join(experiment.run.output, SCORE)}"
    lines: list[RenderableType] = [*problem_gap(manifest), gap_table(manifest), *plain_text_gap(manifest)]
    if "attempts" in manifest:
        lines += ["", f"attempts under the teacher {experiment.score.teacher}:", attempts_table(manifest["attempts"])]
    print_lines([*lines, files, f"next: {following}"])


def print_training(experiment: Experiment, manifest: dict[str, Any], following: str) -> None:
    """Steps, examples and cross-entropy, and the model's folder; `manifest` is that of `train/`."""
    left_out = [
        *([f"{len(manifest['too_long']):,} set aside as too long"] if manifest["too_long"] else []),
        *([f"{count:,} left out by train.select"] if (count := manifest.get("not_selected", 0)) else []),
        *([f"{count:,} held out"] if (count := manifest.get("holdout_examples", 0)) else []),
    ]
    aside = f" ({', '.join(left_out)})" if left_out else ""
    steps = (
        f"{manifest['steps']:,} steps on {manifest['examples']:,} examples{aside}, "
        f"cross-entropy {manifest['cross_entropy']:.4f}"
    )
    mixed = [part for rows in manifest.get("mix", []) for part in wrapped(_mix_line(rows))]
    kept = []
    if manifest.get("kept_step", manifest["steps"]) != manifest["steps"]:
        figure = f"holdout_{experiment.train.keep_by}"
        value = f", whose {figure.replace('_', ' ')} is {manifest[figure]:.4f}" if figure in manifest else ""
        kept = wrapped(f"the model is that of step {manifest['kept_step']:,}{value}")
    model = f"model: {join(experiment.run.output, TRAIN, MODEL)}"
    print_lines([*wrapped(steps), *mixed, *kept, model, f"next: {following}"])


def _mix_line(rows: dict[str, Any]) -> str:
    """What one source of `[[train.mix]]` added."""
    few = f", of {rows['wanted_tokens']:,} wanted" if rows["response_tokens"] < rows["wanted_tokens"] else ""
    unusable = f"; {rows['unusable']:,} rows could not be used" if rows["unusable"] else ""
    tokens = f"{rows['response_tokens']:,} response tokens{few}"
    return f"{rows['name']}: {rows['examples']:,} of these examples, {tokens}, from {rows['source']}{unusable}"


def print_evaluation(experiment: Experiment, scores: Results, differences: Results, following: str) -> None:
    """The accuracies, each model's differences from the base model, and the file of the accuracies.

    `scores` and `differences` are what `evaluate/scores.json` and `evaluate/differences.json` hold.
    """
    lines: list[RenderableType] = [accuracy_table(scores)]
    for model, found in differences.items():
        lines += ["", differences_table(scores, model, found)]
    files = f"scores: {join(experiment.run.output, EVALUATE, ACCURACIES)}"
    print_lines([*lines, files, f"next: {following}"])


def print_finding(finding: "Finding") -> None:
    """One line about one check of the self-test."""
    print_lines([f"{_WORDS[finding.passed]:<8} {finding.name.replace('_', ' ')}: {finding.detail}"])


def origins_table(manifest: dict[str, Any], stages: Sequence[str] = PAPERS_STAGES) -> Table:
    """The number of problems by the author of the kept solution, without paper's stages that were left out."""
    table = plain_table("kept solution", "problems", "share")
    for origin, count in manifest["origins"].items():
        if count or origin in (*stages, "external", "expert"):
            table.add_row(KEPT[origin], str(count), f"{count / manifest['problems']:.0%}")
    for name in ("dropped", "rejected"):
        if manifest[name]:
            table.add_row(name, str(manifest[name]), "")
    return table


def rewriting_costs(manifest: dict[str, Any]) -> str:
    """The cost of a rewrite and the reasons of its attempts, in a few lines."""
    lines = [f"{manifest['attempts']:,} attempts, {manifest['generated_tokens']:,} tokens generated"]
    if copied := manifest.get("copied"):
        lines.append(f"{copied:,} problems copied from an earlier rewrite, which solved them")
    extra = {"redone": "repeated after an interruption", "speculative": "begun early and not needed"}
    others = {words: manifest.get(f"{kind}_attempts", 0) for kind, words in extra.items()}
    if any(others.values()):
        lines += [f"plus {count:,} attempts {words}" for words, count in others.items() if count]
    if external := manifest.get("external"):
        costs = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in external.items())
        lines.append(f"the other model: {costs}")
    for stage, reasons in manifest.get("reasons", {}).items():
        if reasons:
            lines.append(f"{stage}: {counts_text(reasons)}")
    if any(UNJUDGED in reasons for reasons in manifest.get("reasons", {}).values()):
        lines.append(f"{UNJUDGED}: the judge's context did not hold the texts; raise policy.engine.max_model_len")
    if phases := manifest.get("phases"):
        lines.append(_time_line(phases))
    return "\n".join(part for line in lines for part in wrapped(line))


def _time_line(phases: Mapping[str, float]) -> str:
    """The seconds of a rewrite by what they were spent on; `loading` and `sampling` are parts of `rewriting`."""
    total = phases.get("reading data", 0.0) + phases.get("rewriting", 0.0)
    parts = {
        "reading data": phases.get("reading data", 0.0),
        "engine start": phases.get("loading", 0.0),
        "sampling": phases.get("sampling", 0.0),
    }
    parts["other"] = total - sum(parts.values())
    shown = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if round(seconds) > 0)
    return f"time: {duration(total)} in all" + (f" ({shown})" if shown else "")


def doubtful_answers(run: str, manifest: dict[str, Any]) -> list[str]:
    """What a rewrite found out about gold answers, and how to see it; empty if it has no doubts."""
    lines = []
    if bad := manifest.get("bad_golds"):
        findings = Counter(gold["finding"] for gold in bad)
        counts = counts_text(dict(findings.most_common()))
        lines.append(f"gold answers in doubt: {counts}; see {join(run, REWRITE, MANIFEST)}")
    if count := len(manifest.get("suspects", [])):
        problems, subject = ("1 problem", "its") if count == 1 else (f"{count:,} problems", "their")
        lines.append(
            f"{problems} may have a wrong gold answer (most of {subject} attempts agree on another); "
            f"see ossft show {run} --suspects"
        )
    return lines


def problem_gap(manifest: dict[str, Any]) -> list[str]:
    """The gap paired by problem, in a few lines; empty if no problem has both responses."""
    if not (gap := manifest.get("gap", {}).get("kept")):
        return []
    line = f"policy gap, paired by problem: {_gap_words(gap)}"
    return [*wrapped(line), "", "weighted by tokens:"]


def plain_text_gap(manifest: dict[str, Any]) -> list[str]:
    """The authors' figures, if `[score] plain_text` asked for them."""
    if not (plain := manifest.get("plain_text")):
        return []
    kept, original = plain["kept"], plain["expert_originals"]
    line = f"without the chat template, averaged over responses: mean log p {kept['mean_logprob']:.3f} kept"
    if original["responses"]:
        line += f", {original['mean_logprob']:.3f} experts' originals"
    if plain["gap"]:
        line += f"; paired by problem: {_gap_words(plain['gap'])}"
    return wrapped(line)


def _gap_words(gap: dict[str, Any]) -> str:
    interval = "" if gap["low"] is None else f" (95% interval {gap['low']:+.2f} to {gap['high']:+.2f})"
    problems = "1 problem" if gap["problems"] == 1 else f"{gap['problems']:,} problems"
    return f"{gap['difference']:+.2f} nats a token{interval}, {gap['before']:.2f} to {gap['after']:.2f}, {problems}"


def gap_table(manifest: dict[str, Any]) -> Table:
    """The probability of kept responses and expert solutions under the policy, from `score/manifest.json`."""
    table = plain_table("responses", "number", "tokens", "mean\nlog p", "perplexity", "effective\nsample size")
    groups: dict[str, str] = {origin: f"kept, {origin}" for origin in ORIGINS}
    for group, words in (groups | {"kept": "all kept", "expert_originals": "experts' originals"}).items():
        figures = manifest.get(group)  # older scores have no group `external`
        if figures and figures["tokens"]:
            table.add_row(
                words,
                f"{figures['responses']:,}",
                f"{figures['tokens']:,}",
                f"{figures['mean_logprob']:.3f}",
                f"{figures['perplexity']:,.2f}",
                f"{figures['effective_sample_size']:.3f}",
            )
    too_long = manifest["too_long"]
    if any(too_long.values()):
        table.add_row("left out as too long", f"{too_long['kept']:,} kept, {too_long['expert_originals']:,} experts'")
    return table


def attempts_table(attempts: dict[str, Any]) -> Table:
    """The policy's attempts under itself and under the teacher, from `score/manifest.json`."""
    table = plain_table("attempts", "number", "tokens", "mean\nlog p", "teacher's\nmean log q")
    for name in ("correct", "wrong"):
        if (of_group := attempts[name])["tokens"]:
            means = (f"{of_group[key]:.3f}" for key in ("mean_logprob", "teacher_mean_logprob"))
            table.add_row(name, f"{of_group['responses']:,}", f"{of_group['tokens']:,}", *means)
    if attempts["too_long"]:
        table.add_row("left out as too long", f"{attempts['too_long']:,}")
    return table


def accuracy_table(results: Results) -> Table:
    """avg@k of each model on each benchmark, with 95% intervals."""
    benchmarks = next(iter(results.values()))
    num_samples = next(iter(benchmarks.values()))["samples"]
    table = plain_table(f"avg@{num_samples} (95% interval), %", *results)
    for benchmark in benchmarks:
        cells = [of_model[benchmark] for of_model in results.values()]
        table.add_row(benchmark, *map(_accuracy, cells))
    return table


def _accuracy(cell: dict[str, Any]) -> str:
    low, high = mean_interval(cell["avg"], cell["stderr"], cell["problems"])
    return f"{100 * cell['avg']:.1f} ({100 * float(low):.1f} to {100 * float(high):.1f})"


def differences_table(results: Results, model: str, differences: dict[str, dict[str, Any]]) -> Table:
    """The differences of `model` from the base model, with 95% intervals and the smallest detectable difference.

    `results` holds both models' entries of `scores.json`, `differences` is the model's entry of `differences.json`.
    """
    num_samples = next(iter(results[model].values()))["samples"]
    table = plain_table(f"avg@{num_samples}, %", BASE, model, "difference", "95% interval", "detectable")
    table.caption = "detectable: the smallest difference found with 80% power"
    table.caption_justify, table.caption_style = "left", ""
    for benchmark, found in differences.items():
        is_average = benchmark not in results[model]
        means = [
            fmean(entry["avg"] for entry in results[name].values()) if is_average else results[name][benchmark]["avg"]
            for name in (BASE, model)
        ]
        if is_average:
            table.add_section()
        table.add_row(
            benchmark,
            *(f"{100 * mean:.1f}" for mean in means),
            f"{100 * found['difference']:+.1f}",
            f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}",
            f"{100 * found['smallest_detectable']:.1f}",
            style="bold" if is_average else "",
        )
    return table


def plain_table(first: str, *headings: str, no_wrap: bool = True) -> Table:
    """A table without lines: the first column of text, the others of numbers, by default on one line."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=no_wrap)
    return table


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts in one line, such as `2 wrong, 1 correct`. Those that are 0 are left out."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"
