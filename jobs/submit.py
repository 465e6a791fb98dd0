"""Submit one stage of an experiment to a Ray cluster, follow its log, and exit with the job's exit code.

Only the experiment file is uploaded with the job (as its working directory). Data, models and the run's folder are read
and written where the cluster sees them, so their paths must be absolute. A stage that is submitted again resumes.

The head's dashboard listens on its loopback. With `--ssh HEAD` a tunnel leads there while the job is followed.
Otherwise RAY_API_SERVER_ADDRESS or RAY_ADDRESS is its address (by default http://127.0.0.1:8265: a local head, or your
own tunnel). The cluster's token is in ~/.ray/auth_token, or in the file that RAY_AUTH_TOKEN_PATH names.
"""

import asyncio
import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ossft_ray.common.errors import InputError
from ossft_ray.config import load_experiment

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 1, 2, 130
_POLL_SECONDS = 1.0
_HEAD_STARTS_SECONDS = 60.0
_TUNNEL_SECONDS = 30.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("stage", type=click.Choice(["rewrite", "score", "train", "evaluate", "run"]))
@click.argument("config", metavar="CONFIG.toml", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Override one key.")
@click.option("--start-over", is_flag=True, help="Discard this stage's output and start over.")
@click.option("-v", "--verbose", is_flag=True, help="Show the engines' logs too.")
@click.option("--submission-id", metavar="ID", help="The job's name on the cluster; made by Ray by default.")
@click.option(
    "--ssh", "head", metavar="HEAD", help="Connect by SSH: USER@HOST of the head, or a name in ~/.ssh/config."
)
@click.option("--dashboard-port", default=8265, show_default=True, help="The dashboard's port on the head, for --ssh.")
def submit(
    stage: str,
    config: Path,
    overrides: tuple[str, ...],
    start_over: bool,
    verbose: bool,
    submission_id: str | None,
    head: str | None,
    dashboard_port: int,
) -> int:
    """Run STAGE of the experiment CONFIG.toml as a job on a Ray cluster."""
    load_experiment(config, overrides)  # reject a misspelt key before anything is submitted
    command = ["ossft", stage, "--config", config.name]
    command += [argument for override in overrides for argument in ("--set", override)]
    command += ["--start-over"] * start_over + ["--verbose"] * verbose

    if head is None:
        return follow(connect(), config, command, submission_id)
    with tunnel(head, dashboard_port) as address:
        return follow(connect(address), config, command, submission_id)


def follow(client: Any, config: Path, command: list[str], submission_id: str | None) -> int:
    """Submit the job, print its log to the end, and return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(config, folder)
        job = _submit(client, shlex.join(command), folder, submission_id)
    print(f"job {job} on {client.get_address()}: {shlex.join(command)}", flush=True)
    try:
        _print_log(client, job)
        return exit_code(_wait(client, job))
    except KeyboardInterrupt:
        print(f"\nno longer following; the job continues. To stop it: ray job stop {job}", file=sys.stderr)
        return EXIT_STOPPED


@contextmanager
def tunnel(head: str, dashboard_port: int) -> Iterator[str]:
    """Open an SSH tunnel to the dashboard on the head's loopback; yields its address on this machine.

    Raises:
        InputError: SSH cannot reach the head, or needs a password.
    """
    if shutil.which("ssh") is None:
        raise InputError(f"--ssh {head}: ssh is not installed on this machine; install the OpenSSH client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"]
    command = ["ssh", "-N", *options, "-L", f"127.0.0.1:{port}:127.0.0.1:{dashboard_port}", "--", head]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            deadline = time.monotonic() + _TUNNEL_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    reason = (errors.read().strip().splitlines() or ["no answer"])[-1]
                    raise InputError(f"--ssh {head}: {reason}; `ssh {head}` must work without a password")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def connect(address: str | None = None) -> Any:
    """A client connected to the cluster's job server, at the environment's address by default.

    Raises:
        InputError: nothing answers at the address, or the token is missing or wrong.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.INFO)  # of uploads and closed sockets; Ray's loggers set their own levels
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise InputError(f"{error} Start a head there, or open a tunnel to it: see cluster/README.md") from None
    except AuthenticationError as error:
        raise InputError(str(error)) from None


def exit_code(info: Any) -> int:
    """The exit code of the job's command. Ray knows it, but `ray job submit` does not pass it on."""
    if info.driver_exit_code is not None:
        code = int(info.driver_exit_code)
        return 128 - code if code < 0 else code  # ended by a signal: the code that a shell reports
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
            # a new head answers some seconds before it accepts jobs
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


def _print_log(client: Any, job: str) -> None:
    async def follow() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    try:
        asyncio.run(follow())
    except RuntimeError as error:  # the connection failed, not the job
        print(f"the log can no longer be followed: {error}; the job continues", file=sys.stderr, flush=True)


def _wait(client: Any, job: str) -> Any:
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(_POLL_SECONDS)
    return info


def main() -> None:
    """Exit with the codes of `ossft`: 0, 1, 2 and 130."""
    try:
        sys.exit(submit(standalone_mode=False))
    except click.ClickException as error:
        _fail(error.format_message(), EXIT_BAD_INPUT)
    except InputError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except (
        RuntimeError,
        ConnectionError,
    ) as error:  # Ray's job server nests tracebacks; the last line counts
        _fail(str(error).rsplit("Error: ")[-1].rstrip(". \n"), EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
