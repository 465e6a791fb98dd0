"""Submit one stage of an experiment to a Ray cluster, follow its log, and leave with the job's own exit code.

Only the experiment file travels with the job (as its working directory); data, models and the run's folder are
read and written where the cluster sees them, so their paths must be absolute there. Submitted again, a stage goes on
where it was.

Environment: RAY_API_SERVER_ADDRESS or RAY_ADDRESS is the head's dashboard (http://127.0.0.1:8265 by default: a
local head, or a tunnel to a remote one). The cluster's token stands in ~/.ray/auth_token, or in the file that
RAY_AUTH_TOKEN_PATH names.
"""

import asyncio
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from ossft_ray.config import load_experiment
from ossft_ray.errors import InputError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 1, 2, 130
_POLL_SECONDS = 1.0
_HEAD_STARTS_SECONDS = 60.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stage", type=click.Choice(["rewrite", "score", "train", "evaluate", "run"]))
@click.argument("config", metavar="CONFIG.toml", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override one key.")
@click.option("--start-over", is_flag=True, help="Discard what this stage has written, and make it anew.")
@click.option("-v", "--verbose", is_flag=True, help="Show the engines' own logs too.")
@click.option("--submission-id", metavar="ID", help="The job's name on the cluster; by default Ray makes one.")
def submit(
    stage: str, config: Path, overrides: tuple[str, ...], start_over: bool, verbose: bool, submission_id: str | None
) -> int:
    """Run STAGE of the experiment CONFIG.toml as a job on a Ray cluster."""
    load_experiment(config, overrides)  # a misspelt key need not wait for the cluster to be refused
    command = ["ossft", stage, "--config", config.name]
    command += [argument for override in overrides for argument in ("--set", override)]
    command += ["--start-over"] * start_over + ["--verbose"] * verbose

    client = connect()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(config, folder)
        job = _submit(client, shlex.join(command), folder, submission_id)
    print(f"job {job} on {client.get_address()}: {shlex.join(command)}", flush=True)
    try:
        asyncio.run(_print_log(client, job))
        return exit_code(_wait(client, job))
    except KeyboardInterrupt:
        print(f"\nno longer following; the job goes on. To stop it: ray job stop {job}", file=sys.stderr)
        return EXIT_STOPPED


def connect() -> Any:
    """A client of the cluster's job server, which it has reached.

    Raises:
        InputError: nothing answers at the address, or the token is missing or wrong.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.INFO)  # uploads and closed sockets are not news; its loggers set their own levels
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise InputError(f"{error} Start a head there, or open a tunnel to it: see cluster/README.md") from None
    except AuthenticationError as error:
        raise InputError(str(error)) from None


def exit_code(info: Any) -> int:
    """What the job's command left with; Ray knows it, but `ray job submit` does not pass it on."""
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return 128 - code if code < 0 else code  # ended by a signal: as a shell says it
    print(f"job {info.submission_id}: {info.status}: {info.message}", file=sys.stderr)
    return EXIT_STOPPED if info.status == "STOPPED" else EXIT_FAILED


def _submit(client: Any, entrypoint: str, folder: str, submission_id: str | None) -> str:
    deadline = time.monotonic() + _HEAD_STARTS_SECONDS
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=entrypoint, runtime_env={"working_dir": folder}, submission_id=submission_id
                )
            )
        except RuntimeError as error:
            # a head answers some seconds before it can take jobs
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


async def _print_log(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def _wait(client: Any, job: str) -> Any:
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(_POLL_SECONDS)
    return info


def main() -> None:
    """Exit codes as of `ossft` itself: 0, 1, 2 and 130."""
    try:
        sys.exit(submit(standalone_mode=False))
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_BAD_INPUT)
    except InputError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except (RuntimeError, ConnectionError) as error:  # of Ray's job server: nested tracebacks, whose last line counts
        _fail(str(error).rsplit("Error: ")[-1].rstrip(". \n"), EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
