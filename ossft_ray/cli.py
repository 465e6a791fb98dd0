"""The commands: one for each stage, and some more. Each imports only the heavy libraries that it needs."""

import copy
import functools
import importlib
import io
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ossft_ray import __version__
from ossft_ray.common.errors import Faults, InputError, JobError, Stopped, remember_interrupts
from ossft_ray.common.secrets import mask
from ossft_ray.common.types import ORIGINS
from ossft_ray.terminal.bars import StageBars, print_lines

if TYPE_CHECKING:
    from ossft_ray.config import Experiment
    from ossft_ray.run_folder.resolved_run import Run
    from ossft_ray.stages.check.stage import Findings

_STAGE_COMMAND = re.compile("`(ossft (?:check|rewrite|score|train|evaluate|report|run)[^`]*)`")
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Also show the logs of vLLM and DeepSpeed.")
_config = click.option("--config", "config_path", metavar="FILE.toml", help="The experiment file.")
_set = click.option(
    "--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override a key of it; repeatable."
)
_start_over = click.option("--start-over", is_flag=True, help="Discard this stage's output and start again.")


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The click options of one command, and `--debug`, which every command has."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(debug: bool, **arguments: Any) -> None:
            try:
                command(**arguments)
            except (InputError, JobError) as error:
                if debug:
                    traceback.print_exc()
                raise _with_typed_commands(error) from error
            except Exception:
                if debug:
                    traceback.print_exc()
                raise

        for option in reversed([*options, _debug]):
            wrapped = option(wrapped)
        return wrapped

    return decorate


class _InOrder(click.Group):
    """Lists the commands in the order of this module, which is that of the flow."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="ossft")
@click.pass_context
def ossft(context: click.Context) -> None:
    """Off-policy supervised fine-tuning on Ray: make expert data on-policy, then train on it.

    Start with `ossft demo`, which needs no GPU and no network.
    """
    if "RAY_ADDRESS" not in os.environ:
        # A Ray that a command starts belongs to this machine alone, so all its ports listen on loopback. Ray has no
        # other switch for that. It honours this one on every system, and reads it on import.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _stage_command(body: Callable[["Experiment", bool, bool], None]) -> click.Command:
    """Make a command of `body(experiment, start_over, verbose)`."""

    @ossft.command()
    @_options(_config, _set, _start_over, _verbose)
    @functools.wraps(body)
    def command(config_path: str | None, overrides: tuple[str, ...], start_over: bool, verbose: bool) -> None:
        body(_load(config_path, overrides), start_over, verbose)

    return command


def _run_stage(name: str, experiment: "Experiment", start_over: bool, verbose: bool) -> Any:
    """Run a stage's function under a progress bar of its name, and return what it returns."""
    with StageBars() as bars:
        on_progress = bars.begin(name)  # before the import, which takes seconds
        stage = getattr(importlib.import_module(f"ossft_ray.stages.{name}"), name)
        return stage(experiment, on_progress, start_over, verbose)


def _with_options(command: str) -> str:
    """A command as it can be typed, with the `--config` and `--set` options of the current one."""
    context = click.get_current_context(silent=True)
    given: dict[str, Any] = context.params if context else {}
    config = ["--config", given["config_path"]] if given.get("config_path") else []
    overrides = [word for override in given.get("overrides", ()) for word in ("--set", override)]
    return " ".join([command, *map(shlex.quote, [*config, *overrides])])


def _with_typed_commands(error: Exception) -> Exception:
    """The error, with the commands in its message as they can be typed."""
    typed = copy.copy(error)
    typed.args = (_STAGE_COMMAND.sub(lambda found: f"`{_with_options(found[1])}`", str(error)),)
    return typed


@_stage_command
def rewrite(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    """Make the data on-policy: problems in, examples out."""
    manifest = _run_stage("rewrite", experiment, start_over, verbose)
    from ossft_ray.terminal.results import print_rewriting

    print_rewriting(experiment, manifest, _with_options("ossft score"))


@ossft.command()
@click.option("--teacher", metavar="TEACHER", help="Score the attempts too: `guided`, or a model; see [score] teacher.")
@_options(_config, _set, _start_over, _verbose)
def score(
    config_path: str | None, overrides: tuple[str, ...], teacher: str | None, start_over: bool, verbose: bool
) -> None:
    """Measure the policy gap.

    Computes the log-probability of every response token under the policy that will be trained, for the kept responses
    and for the expert solutions.
    """
    experiment = _load(config_path, (*overrides, *([f"score.teacher={teacher}"] if teacher else [])))
    manifest = _run_stage("score", experiment, start_over, verbose)
    from ossft_ray.terminal.results import print_scoring

    print_scoring(experiment, manifest, _with_options("ossft train"))


@_stage_command
def train(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    """Train on the examples with the importance-weighted loss."""
    manifest = _run_stage("train", experiment, start_over, verbose)
    from ossft_ray.terminal.results import print_training

    print_training(experiment, manifest, _with_options("ossft evaluate"))


@_stage_command
def evaluate(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    """Compare the base model and the trained one on benchmarks.

    Reports avg@k, pass@k and maj@k with standard errors, and the differences from the base model with intervals.
    """
    scores = _run_stage("evaluate", experiment, start_over, verbose)
    from ossft_ray.stages.evaluate.accuracies import read_differences
    from ossft_ray.terminal.results import print_evaluation

    print_evaluation(experiment, scores, read_differences(experiment.run.output), _with_options("ossft report"))


@ossft.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--output", metavar="FILE", help="Where to write.  [default: report.html in the first RUN]")
@_options(_config, _set)
def report(runs: tuple[str, ...], output: str | None, config_path: str | None, overrides: tuple[str, ...]) -> None:
    """Write one self-contained HTML page about one or several runs.

    RUN is a run's folder. Without RUN, the page is about the [run] output of --config.
    """
    from ossft_ray.report import report, report_runs

    if runs and (config_path or overrides):
        raise click.UsageError("give RUN or --config, not both")
    page = report_runs(runs, output) if runs else report(_load(config_path, overrides), output)
    click.echo(f"report: {page}")


@_stage_command
def run(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    """Run all stages, `[loop] rounds` times."""
    _run(experiment, start_over, verbose)


@ossft.command()
@click.option("--output", default="runs/demo", show_default=True, metavar="DIR", help="The run's folder.")
@click.option(
    "--problems", type=click.IntRange(1), default=960, show_default=True, metavar="N", help="Problems to train on."
)
@_options(_start_over, _verbose)
def demo(output: str, problems: int, start_over: bool, verbose: bool) -> None:
    """Run all stages on the playground, without a GPU or a network."""
    from ossft_ray.playground.demo import write_demo

    _run(write_demo(output, problems), start_over, verbose)


@ossft.command()
@click.option("--cluster", is_flag=True, help="Check every node too: versions, GPUs, all-reduce, shared output, disk.")
@click.option(
    "--probe", "num_probed", type=click.IntRange(2), metavar="N", help="Measure on N problems, and forecast the run."
)
@click.option(
    "--price-per-gpu-hour", "price", type=click.FloatRange(0), metavar="X", help="With --probe: the cost of the run."
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
    """Validate an experiment before anything is spent.

    Reads the experiment file, the data, the model's configuration and tokenizer, and the benchmarks.
    """
    if price is not None and num_probed is None:
        raise click.UsageError("--price-per-gpu-hour needs --probe N")
    experiment = _load(config_path, overrides)
    from ossft_ray.run_folder.resolved_run import Run
    from ossft_ray.stages.check.stage import check
    from ossft_ray.terminal.check_tables import findings_lines

    run = Run(experiment)
    findings = check(run, num_probed or 0)
    print_lines(findings_lines(findings, experiment))
    if cluster:
        _check_cluster(run, verbose)
    if num_probed is not None:
        _probe(run, findings, price, verbose)


def _check_cluster(run: "Run", verbose: bool) -> None:
    from ossft_ray.stages.check.cluster import check_cluster
    from ossft_ray.terminal.check_tables import cluster_lines

    report = check_cluster(run, verbose)
    print_lines(cluster_lines(report))
    if report.faults:
        faults = "1 problem" if len(report.faults) == 1 else f"{len(report.faults)} problems"
        raise JobError(f"check --cluster: {faults} on {len(report.nodes)} nodes, listed above")


def _probe(run: "Run", findings: "Findings", price: float | None, verbose: bool) -> None:
    from ossft_ray.stages.check.probe import probe
    from ossft_ray.terminal.check_tables import forecast_lines

    with StageBars() as bars:
        forecast = probe(run, findings, bars.begin, verbose)
    print_lines(forecast_lines(forecast, price))


@ossft.command()
@click.option("--install", is_flag=True, help="Only check the installation, in seconds: versions, compiler, GPUs.")
@_options()
def selftest(install: bool) -> None:
    """Check that training computes the right numbers on this machine.

    Takes minutes, and needs no network.
    """
    from ossft_ray.terminal.results import print_finding

    if install:
        from ossft_ray.stages.install_check import check_installation as checks
    else:
        from ossft_ray.stages.selftest import selftest as checks
    failed = []
    for finding in checks():
        print_finding(finding)
        failed += [finding.name] if finding.passed is False else []
    if failed:
        raise JobError(f"selftest: {len(failed)} of the checks failed: {', '.join(failed)}")


@ossft.command()
@click.argument("file", metavar="FILE")
@click.option("--output", metavar="FILE", help="Where to write; the suffix chooses JSONL or Parquet.")
@click.option("--kind", metavar="KIND", help="math, choice, number, text, judge, python, or your own.  [default: math]")
@click.option("--answer-column", "answer", default="answer", show_default=True, metavar="NAME", help="Gold answers.")
@click.option("--response-column", "response", default="response", show_default=True, metavar="NAME", help="Responses.")
@click.option("--question-column", "question", default="question", metavar="NAME", help="Questions; optional.")
@click.option("--verifier-column", "verifier", default="verifier", metavar="NAME", help="Each row's kind; optional.")
@click.option("--label-column", "label", default="", metavar="NAME", help="Labels to compare with: true or false.")
@click.option(
    "--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Processor time for one verdict.  [default: 5]"
)
@click.option("--workers", "num_workers", type=int, metavar="N", help="Verifier processes.  [default: one a core]")
@click.option("--only", metavar="VERDICT,...", help="Write and show only rows with these verdicts: wrong,unparsed.")
@click.option("--show", "num_shown", type=click.IntRange(0), default=0, metavar="N", help="Print the first N rows.")
@click.option("--overwrite", is_flag=True, help="Replace the output of an earlier call.")
@_options(_config, _set)
def verify(
    file: str,
    output: str | None,
    only: str | None,
    num_shown: int,
    overwrite: bool,
    kind: str | None,
    timeout_seconds: float | None,
    num_workers: int | None,
    config_path: str | None,
    overrides: tuple[str, ...],
    **columns: str,
) -> None:
    """Grade a JSONL or Parquet file of {answer, response}.

    The output has every column of FILE, and `correct`, `reason` and `extracted`. Settings of the kinds come from the
    [verify] section of --config and from --set. The kind judge asks the model of [policy].
    """
    from ossft_ray.config import load_verify
    from ossft_ray.stages.verify import FileColumns, verify_file
    from ossft_ray.terminal.verdicts import print_verification

    if num_workers is None and config_path is None:
        overrides = (f"verify.num_workers={len(os.sched_getaffinity(0))}", *overrides)
    options = {"kind": kind, "timeout_seconds": timeout_seconds, "num_workers": num_workers}
    given = [f"verify.{key}={value}" for key, value in options.items() if value is not None]
    settings, policy = load_verify(config_path, (*given, *overrides))
    reasons = [reason.strip() for reason in (only or "").split(",") if reason.strip()]
    chosen: dict[str, Any] = {"overwrite": overwrite, "only": reasons, "num_shown": num_shown, "policy": policy}
    with StageBars() as bars:
        summary = verify_file(file, output, settings, FileColumns(**columns), bars.begin("verify"), **chosen)
    print_verification(summary)


@ossft.command()
@click.argument("run", metavar="RUN")
@click.option("--origin", type=click.Choice([*ORIGINS, "dropped"]), help="Only rows of this origin.")
@click.option(
    "-n", "num_rows", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Maximum number of rows."
)
@click.option("--problem", metavar="ID", help="Only rows of this problem.")
@click.option("--suspects", is_flag=True, help="Only problems whose gold answer may be wrong, most evidence first.")
@click.option("--attempts", is_flag=True, help="Show every attempt, with its text if the run kept it.")
@click.option("--prompt", is_flag=True, help="Show the prompt as the policy reads it, and its tokens.")
@click.option("--tokens", is_flag=True, help="Show the response's token ids, each with its piece of text.")
@_options()
def show(run: str, **options: Any) -> None:
    """Show rows of a run, finished or in progress."""
    from ossft_ray.terminal.show import show

    print_lines(show(run, **options))


@ossft.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@_options()
def status(run: str, as_json: bool) -> None:
    """Show how far a run is, from its folder alone."""
    from ossft_ray.run_folder.status import status
    from ossft_ray.terminal.status_lines import status_lines

    found = status(run)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        print_lines(status_lines(found))


@ossft.command()
@click.argument("run", metavar="RUN")
@click.argument("output", metavar="DIR")
@click.option("--format", required=True, type=click.Choice(["trl", "sharegpt", "verl"]), help="Format to write.")
@click.option("--origin", "origins", multiple=True, type=click.Choice(ORIGINS), help="Only this origin; repeatable.")
@click.option("--partial", is_flag=True, help="Export the finished parts of an incomplete rewrite.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in DIR.")
@click.option("--license", default="unknown", show_default=True, metavar="ID", help="Licence of the data set.")
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Upload to a data set on the Hugging Face Hub.")
@click.option("--private", is_flag=True, help="With --push-to-hub: make a new data set private.")
@_options()
def export(run: str, output: str, push_to_hub: str | None, private: bool, **options: Any) -> None:
    """Export a run's examples for another trainer.

    A data-set card says where they come from.
    """
    if private and not push_to_hub:
        raise click.UsageError("--private needs --push-to-hub")
    from ossft_ray.export import export

    exported = export(run, output=output, push_to_hub=push_to_hub, private=private, **options)
    origins = ", ".join(f"{count} {origin}" for origin, count in exported.origins.items())
    click.echo(f"{exported.num_rows} examples ({origins}) in {output}: {', '.join(exported.files)}")
    if exported.url:
        click.echo(f"pushed: {exported.url}")


@ossft.command()
@click.argument("run", metavar="RUN")
@click.argument("output", metavar="[NEW]", required=False)
@click.option("--ablation", metavar="NAME", help="What NEW keeps, such as no_guided or self_4; the table names all.")
@click.option(
    "--unsampled",
    type=click.Choice(["fallback", "drop"]),
    default="fallback",
    show_default=True,
    help="What to do with problems that need a stage in which RUN drew no samples for them.",
)
@_options()
def derive(run: str, output: str | None, ablation: str | None, unsampled: Any) -> None:
    """Make the run of an ablation from a run's attempts, without one new token.

    Without NEW and --ablation, print a table of all ablations of RUN: rows, origins and policy gap.
    """
    if (output is None) != (ablation is None):
        raise click.UsageError("give both NEW and --ablation NAME, or neither for the table")
    from ossft_ray.terminal.derivation import print_ablations, print_derivation

    with StageBars() as bars:
        on_progress = bars.begin("derive")
        if output is None or ablation is None:
            from ossft_ray.stages.derive.comparison import compare_ablations

            compared = compare_ablations(run, unsampled, on_progress)
        else:
            from ossft_ray.stages.derive import derive

            manifest = derive(run, output, ablation, unsampled, on_progress)
    if output is None:
        print_ablations(run, compared)
    else:
        print_derivation(output, manifest)


def _run(experiment: "Experiment", start_over: bool, verbose: bool) -> None:
    """Run all stages under their progress bars, and print the results."""
    with StageBars() as bars:
        bars.begin("check")({"starting": "reading the experiment, the data and the benchmarks"})
        from ossft_ray.stages.run import run

        last = run(experiment, bars.begin, start_over, verbose)
    from ossft_ray.terminal.summary import print_summary

    print_summary(experiment, last)


def _load(config_path: str | None, overrides: tuple[str, ...]) -> "Experiment":
    from ossft_ray.config import load_experiment

    return load_experiment(config_path, overrides)


def main() -> None:
    """Run a command and exit with 0 (done), 1 (failed), 2 (bad input) or 130 (stopped)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    remember_interrupts()
    try:
        code = ossft(prog_name="ossft", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.UsageError as error:
        command, message = error.ctx.command_path if error.ctx else "ossft", error.format_message().rstrip(".")
        file = re.search(r"unexpected extra arguments? \((\S+\.toml)", message)
        hint = f"did you mean --config {file[1]}?" if file else f"see `{command} --help`"
        _exit(EXIT_BAD_INPUT, f"error: {message}; {hint}")
    except click.ClickException as error:
        _exit(EXIT_BAD_INPUT, f"error: {error.format_message()}")
    except InputError as error:
        if isinstance(error, Faults) and len(error.faults) > 1:
            print_lines(f"fault: {mask(fault)}" for fault in error.faults)
        _exit(EXIT_BAD_INPUT, f"error: {error}")
    except JobError as error:
        _exit(EXIT_FAILED, f"error: {error}")
    except Stopped as error:
        _exit(EXIT_INTERRUPTED, str(error))
    except (KeyboardInterrupt, click.Abort):
        _exit(EXIT_INTERRUPTED, "Stopped. Run the same command to resume.")
    except Exception as error:  # a defect of this package
        _exit(EXIT_FAILED, f"error: {type(error).__name__}: {error} (--debug shows the traceback)")


def _exit(code: int, message: str) -> None:
    """Print one line without secrets on standard error, and exit."""
    print(mask(" ".join(message.split())), file=sys.stderr, flush=True)
    sys.exit(code)
