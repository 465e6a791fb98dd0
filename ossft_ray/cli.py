"""The commands: one a stage. Heavy libraries are imported by the command that needs them."""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ossft_ray import __version__
from ossft_ray.common.errors import InputError, JobError, Stopped
from ossft_ray.common.secrets import mask

if TYPE_CHECKING:
    from ossft_ray.config import Experiment
    from ossft_ray.stages.check.stage import Findings

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
_STATE = {"debug": False}

_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Show the engines' own logs too.")
_config = click.option("--config", "config_path", metavar="FILE.toml", help="The experiment file.")
_set = click.option("--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override one key.")
_start_over = click.option("--start-over", is_flag=True, help="Discard what this stage has written, and make it anew.")


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Click options for one command; `--debug` is taken out and remembered."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(debug: bool, **arguments: Any) -> None:
            _STATE["debug"] = debug
            command(**arguments)

        for option in reversed([*options, _debug]):
            wrapped = option(wrapped)
        return wrapped

    return decorate


_experiment_options = (_config, _set)
_stage_options = (_config, _set, _start_over, _verbose)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="ossft")
@click.pass_context
def ossft(context: click.Context) -> None:
    """Off-policy supervised fine-tuning on Ray: make expert data on-policy, then train on it.

    Begin with `ossft demo`, which needs no GPU and no network.
    """
    if "RAY_ADDRESS" not in os.environ:
        # A Ray that a command starts is this machine's alone: all its ports on loopback. Ray has no other switch for
        # that, heeds this one on every system, and reads it when it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@ossft.command()
@_options(*_stage_options)
def rewrite(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
    """Make the data on-policy: problems in, examples out."""
    experiment = _load(config_path, overrides)
    from ossft_ray.common.uris import join
    from ossft_ray.stages.rewrite.stage import rewrite
    from ossft_ray.terminal.bars import StageBars, console
    from ossft_ray.terminal.tables import origins_table, rewriting_costs

    with StageBars() as bars:
        manifest = rewrite(experiment, bars.begin("rewrite"), start_over, verbose)
    console.print(origins_table(manifest))
    console.print(rewriting_costs(manifest))
    console.print(f"examples: {join(experiment.run.output, 'rewrite')}    next: ossft score")


@ossft.command()
@_options(*_stage_options)
def score(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
    """Measure the policy gap: log p of each response token, kept and expert's, under the policy to be trained."""
    experiment = _load(config_path, overrides)
    from ossft_ray.common.uris import join
    from ossft_ray.stages.score.stage import score
    from ossft_ray.terminal.bars import StageBars, console
    from ossft_ray.terminal.tables import gap_table

    with StageBars() as bars:
        manifest = score(experiment, bars.begin("score"), start_over, verbose)
    console.print(gap_table(manifest))
    console.print(f"log-probabilities: {join(experiment.run.output, 'score')}    next: ossft train")


@ossft.command()
@_options(*_stage_options)
def train(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
    """Train on a run's examples with the importance-weighted loss."""
    experiment = _load(config_path, overrides)
    from ossft_ray.common.uris import join
    from ossft_ray.stages.train.stage import train
    from ossft_ray.terminal.bars import StageBars, console

    with StageBars() as bars:
        manifest = train(experiment, bars.begin("train"), start_over, verbose)
    console.print(
        f"{manifest['steps']} steps on {manifest['examples']} examples "
        f"({len(manifest['too_long'])} set aside as too long), cross-entropy {manifest['cross_entropy']:.4f}"
    )
    console.print(f"model: {join(experiment.run.output, 'train', 'model')}    next: ossft evaluate")


@ossft.command()
@_options(*_stage_options)
def evaluate(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
    """Score models on benchmarks: avg@k, pass@k, maj@k with standard errors, and differences from the base model."""
    experiment = _load(config_path, overrides)
    from ossft_ray.common.uris import join
    from ossft_ray.stages.evaluate.accuracies import read_differences
    from ossft_ray.stages.evaluate.stage import evaluate
    from ossft_ray.terminal.bars import StageBars, console
    from ossft_ray.terminal.tables import accuracy_table, differences_table

    with StageBars() as bars:
        scores = evaluate(experiment, bars.begin("evaluate"), start_over, verbose)
    console.print(accuracy_table(scores))
    for model, differences in read_differences(experiment.run.output).items():
        console.print()
        console.print(differences_table(scores, model, differences))
    console.print(f"scores: {join(experiment.run.output, 'evaluate', 'scores.json')}    next: ossft report")


@ossft.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--output", metavar="FILE", help="Where to write.  [default: report.html in the first RUN]")
@_options(*_experiment_options)
def report(runs: tuple[str, ...], output: str | None, config_path: str | None, overrides: tuple[str, ...]) -> None:
    """Write one self-contained HTML page about runs, side by side if there are several.

    RUN is a run's folder; without any, it is the [run] output of --config.
    """
    from ossft_ray.report import report, report_runs

    if runs and (config_path or overrides):
        raise click.UsageError("give RUN or --config, not both")
    page = report_runs(runs, output) if runs else report(_load(config_path, overrides), output)
    click.echo(f"report: {page}")


@ossft.command()
@_options(*_stage_options)
def run(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
    """All stages, `[loop] rounds` times."""
    _run(_load(config_path, overrides), start_over, verbose)


@ossft.command()
@click.option("--output", default="runs/demo", show_default=True, metavar="DIR", help="The run's folder.")
@_options(_start_over, _verbose)
def demo(output: str, start_over: bool, verbose: bool) -> None:
    """The whole job on the playground, with no GPU and no network."""
    from ossft_ray.playground.demo import write_demo

    _run(write_demo(output), start_over, verbose)


@ossft.command()
@click.option("--cluster", is_flag=True, help="Check every node too: versions, GPUs, all-reduce, shared output, disk.")
@click.option(
    "--probe",
    "num_probed",
    type=click.IntRange(min=2),
    metavar="N",
    help="Rewrite and train on N problems, and forecast the run.",
)
@click.option(
    "--price-per-gpu-hour",
    "price",
    type=click.FloatRange(min=0),
    metavar="X",
    help="With --probe: also the cost, in X's currency.",
)
@_options(_config, _set, _verbose)
def check(
    config_path: str | None,
    overrides: tuple[str, ...],
    cluster: bool,
    num_probed: int | None,
    price: float | None,
    verbose: bool,
) -> None:
    """Validate the config, its data, policy and benchmarks, before anything is spent."""
    if price is not None and num_probed is None:
        raise click.UsageError("--price-per-gpu-hour needs --probe N")
    experiment = _load(config_path, overrides)
    from ossft_ray.stages.check.stage import check
    from ossft_ray.terminal.check_tables import findings_lines

    findings = check(experiment, num_probed or 0)
    for line in findings_lines(findings, experiment.data):
        click.echo(line)
    if cluster:
        _check_cluster(experiment, verbose)
    if num_probed is not None:
        _probe(experiment, findings, price, verbose)


def _check_cluster(experiment: "Experiment", verbose: bool) -> None:
    from ossft_ray.stages.check.cluster import check_cluster
    from ossft_ray.terminal.bars import console
    from ossft_ray.terminal.check_tables import cluster_lines

    report = check_cluster(experiment, verbose)
    for part in cluster_lines(report):
        console.print(part, soft_wrap=True, markup=False)
    if report.problems:
        problems = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
        raise JobError(f"check --cluster: {problems} on {len(report.nodes)} nodes, listed above")


def _probe(experiment: "Experiment", findings: "Findings", price: float | None, verbose: bool) -> None:
    from ossft_ray.stages.check.probe import probe
    from ossft_ray.terminal.bars import StageBars, console
    from ossft_ray.terminal.check_tables import forecast_lines

    with StageBars() as bars:
        forecast = probe(experiment, findings, bars.begin, verbose)
    for part in forecast_lines(forecast, price):
        console.print(part, soft_wrap=True, markup=False)


@ossft.command()
@_options()
def selftest() -> None:
    """Prove that training does on this machine what it should; minutes, no network."""
    from ossft_ray.stages.selftest import selftest

    failed = []
    for finding in selftest():
        word = {True: "passed", False: "FAILED", None: "skipped"}[finding.passed]
        click.echo(f"{word:<8} {finding.name.replace('_', ' ')}: {finding.detail}")
        failed += [finding.name] if finding.passed is False else []
    if failed:
        raise JobError(f"selftest: {len(failed)} of the checks failed: {', '.join(failed)}")


@ossft.command()
@click.argument("file", metavar="FILE")
@click.option("--output", metavar="FILE", help="Where to write; by its suffix JSONL or Parquet.")
@click.option(
    "--kind", metavar="KIND", help="math, choice, number, text, python, or another package's.  [default: math]"
)
@click.option(
    "--answer-column", "answer", default="answer", show_default=True, metavar="NAME", help="The gold answers."
)
@click.option("--response-column", "response", default="response", show_default=True, metavar="NAME", help="Responses.")
@click.option("--question-column", "question", default="question", metavar="NAME", help="Optional in the file.")
@click.option("--verifier-column", "verifier", default="verifier", metavar="NAME", help="Optional: each row's kind.")
@click.option("--timeout", "timeout_seconds", type=float, help="Processor seconds for a verdict.  [default: 5]")
@click.option("--workers", "num_workers", type=int, help="Processes that grade.  [default: a core each]")
@_options(_config, _set)
def verify(
    file: str,
    output: str | None,
    kind: str | None,
    timeout_seconds: float | None,
    num_workers: int | None,
    config_path: str | None,
    overrides: tuple[str, ...],
    **columns: str,
) -> None:
    """Grade a JSONL or Parquet file of {answer, response}; adds `correct`, `reason`, `extracted`.

    --config and --set give the [verify] section, where the kinds' settings are.
    """
    from ossft_ray.config import load_verify
    from ossft_ray.stages.verify import FileColumns, verify_file
    from ossft_ray.terminal.bars import StageBars, console
    from ossft_ray.terminal.tables import verify_table

    own = {"kind": kind, "timeout_seconds": timeout_seconds, "num_workers": num_workers}
    asked = [f"verify.{key}={value}" for key, value in own.items() if value is not None]
    if num_workers is None and config_path is None:
        asked.insert(0, f"verify.num_workers={len(os.sched_getaffinity(0))}")
    settings = load_verify(config_path, (*asked, *overrides))
    with StageBars() as bars:
        summary = verify_file(file, output, settings, FileColumns(**columns), bars.begin("verify"))
    console.print(verify_table(summary.reasons))
    console.print(
        f"{summary.num_rows:,} rows, {summary.accuracy:.1%} correct, {summary.num_over_limits:,} over a limit, "
        f"{summary.verdicts_per_second:,.0f} verdicts/s"
    )
    console.print(f"verdicts: {summary.output}", soft_wrap=True)


@ossft.command()
@click.argument("run", metavar="RUN")
@click.option("--origin", type=click.Choice(["self", "guided", "expert", "dropped"]), help="Only rows of this origin.")
@click.option("-n", "num_rows", type=click.IntRange(min=1), default=3, show_default=True, help="At most so many rows.")
@click.option("--problem", metavar="ID", help="Only rows of this problem.")
@click.option("--attempts", is_flag=True, help="Every attempt, with its text where the run kept it.")
@click.option("--prompt", is_flag=True, help="The prompt as the policy's chat template renders it, and its tokens.")
@click.option("--tokens", is_flag=True, help="The response's token ids, each with its piece of text.")
@_options()
def show(
    run: str, origin: str | None, num_rows: int, problem: str | None, attempts: bool, prompt: bool, tokens: bool
) -> None:
    """Look at a run's rows, also while it is going."""
    from ossft_ray.terminal.bars import console
    from ossft_ray.terminal.show import RowDetails, show

    for line in show(run, origin, num_rows, problem, RowDetails(attempts=attempts, prompt=prompt, tokens=tokens)):
        console.print(line, soft_wrap=True)


@ossft.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@_options()
def status(run: str, as_json: bool) -> None:
    """Tell how far a run is, from its folder alone, also while it is going."""
    from ossft_ray.run_folder.status import status

    found = status(run)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    from ossft_ray.terminal.bars import console
    from ossft_ray.terminal.status_lines import status_lines

    for line in status_lines(found):
        console.print(line, soft_wrap=True)


@ossft.command()
@click.argument("run", metavar="RUN")
@click.argument("output", metavar="DIR")
@click.option(
    "--format", "layout", required=True, type=click.Choice(["trl", "sharegpt", "verl"]), help="For which trainer."
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    type=click.Choice(["self", "guided", "expert"]),
    help="Only these; repeatable.",
)
@click.option("--partial", is_flag=True, help="Export what is there, though the rewriting is not complete.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in DIR.")
@click.option(
    "--license", default="unknown", show_default=True, metavar="ID", help="The data set's licence, for its card."
)
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload to a data set on the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="Let a data set that --push-to-hub makes be private.")
@_options()
def export(run: str, output: str, layout: str, push_to_hub: str | None, private: bool, **options: Any) -> None:
    """Write a run's examples into DIR as other trainers read them, with a data-set card."""
    if private and not push_to_hub:
        raise click.UsageError("--private needs --push-to-hub")
    from ossft_ray.export import export

    exported = export(run, layout, output, push_to_hub=push_to_hub, private=private, **options)
    origins = ", ".join(f"{count} {origin}" for origin, count in exported.origins.items())
    click.echo(f"{exported.num_rows} examples ({origins}) in {output}: {', '.join(exported.files)}")
    if exported.url:
        click.echo(f"pushed: {exported.url}")


def _run(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    from ossft_ray.stages.run import run
    from ossft_ray.terminal.bars import StageBars
    from ossft_ray.terminal.summary import print_summary

    with StageBars() as bars:
        last = run(experiment, bars.begin, start_over, verbose)
    print_summary(experiment, last)


def _load(config_path: str | None, overrides: tuple[str, ...]) -> "Experiment":
    from ossft_ray.config import load_experiment

    return load_experiment(config_path, overrides)


def main() -> None:
    """Run a command and leave with the contract's exit codes."""
    try:
        code = ossft(prog_name="ossft", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ossft"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", EXIT_BAD_INPUT)
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_BAD_INPUT)
    except InputError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except JobError as error:
        _fail(str(error), EXIT_FAILED)
    except Stopped as error:
        _fail(str(error), EXIT_INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped; the same command goes on where it was", EXIT_INTERRUPTED)
    except Exception as error:  # a defect of ours: one line, and the way to see more
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    if _STATE["debug"]:
        traceback.print_exc()
    line = mask(" ".join(message.split()))
    print(f"error: {line}" if code != EXIT_INTERRUPTED else line, file=sys.stderr)
    sys.stderr.flush()
    sys.exit(code)
