"""The fork server: workers leave no trace in their parent, report how they ended, and end with their parent."""

import inspect
import multiprocessing.forkserver
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from ossft_ray.config import Verify, VerifyPython
from ossft_ray.verification import Verdict, VerifierPool
from ossft_ray.verification.fork_server import ForkedProcess, ForkServer
from ossft_ray.verification.worker import Worker
from tests.verification import forked_functions as functions

PRELOADED = "colorsys"  # a module that nothing else imports
PATIENCE_SECONDS = 30.0
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server._stop()


def start(server: ForkServer, function: Any, *arguments: object) -> ForkedProcess:
    return server.start(PRELOADED, function, *arguments)


def pid_of(server: ForkServer) -> int:
    assert server.process is not None
    return server.process.pid


def end(process: ForkedProcess) -> int | None:
    os.kill(process.pid, signal.SIGKILL)
    code = process.exit_code(PATIENCE_SECONDS)
    process.close()
    return code


def responds(process: ForkedProcess) -> bool:
    process.connection.send("hello")
    return bool(process.connection.recv() == "hello")


def descriptors(pid: int) -> set[int]:
    """The open file descriptors of a process."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_starting_workers_does_not_change_the_main_module() -> None:
    """Importing vLLM on another thread calls `inspect.getmodule`, which raises if `__main__.__file__` is None."""
    errors: list[Exception] = []
    stop = threading.Event()

    def inspect_modules() -> None:
        while not stop.is_set():
            try:
                inspect.stack()
                # A file that inspect does not know yet makes it search all modules.
                inspect.getmodule(compile("", f"<{time.monotonic_ns()}>", "exec"))
            except Exception as error:
                errors.append(error)
                return

    other_server = multiprocessing.forkserver._forkserver
    before = dict(vars(sys.modules["__main__"])), dict(vars(other_server))
    thread = threading.Thread(target=inspect_modules)
    thread.start()
    try:
        for _ in range(20):
            worker = Worker("text", {}, 5.0, 64)
            worker.wait_until_ready()
            worker.end()
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert (dict(vars(sys.modules["__main__"])), dict(vars(other_server))) == before


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        (functions.exit_with, [0], 0),
        (functions.exit_with, [99], 99),
        (functions.raise_error, [], 1),
        (functions.die_by_signal, [signal.SIGPROF], -signal.SIGPROF),
        (functions.die_by_signal, [signal.SIGKILL], -signal.SIGKILL),
    ],
)
def test_the_exit_code_is_reported(server: ForkServer, function: Any, arguments: list[Any], code: int) -> None:
    process = start(server, function, *arguments)
    assert process.exit_code(PATIENCE_SECONDS) == code
    process.close()


def test_a_living_process_has_no_exit_code(server: ForkServer) -> None:
    process = start(server, functions.echo)
    assert process.exit_code(0.1) is None
    assert responds(process)
    assert end(process) == -signal.SIGKILL


def test_a_process_ends_when_its_connection_closes(server: ForkServer) -> None:
    process = start(server, functions.echo)
    process.connection.close()
    assert process.exit_code(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("is_reaped", [False, True], ids=["zombie", "reaped by someone else"])
def test_a_killed_server_is_replaced_and_its_processes_survive(server: ForkServer, is_reaped: bool) -> None:
    first = start(server, functions.echo)
    killed = pid_of(server)
    os.kill(killed, signal.SIGKILL)
    if is_reaped:
        os.waitpid(killed, 0)
    else:
        wait_until(lambda: is_gone(killed))
    second = start(server, functions.echo)
    assert pid_of(server) != killed
    assert not psutil.pid_exists(killed), "it is a zombie"
    assert responds(first) and responds(second)
    assert end(first) is None, "its fork server is gone"
    assert end(second) == -signal.SIGKILL


def test_a_server_killed_during_a_start_fails_that_start_only(server: ForkServer) -> None:
    end(start(server, functions.echo))
    os.kill(pid_of(server), signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(start, server, functions.echo)
        time.sleep(0.2)  # until it waits for the stopped fork server
        os.kill(pid_of(server), signal.SIGKILL)
        with pytest.raises((EOFError, OSError)):
            starting.result(PATIENCE_SECONDS)
    assert end(start(server, functions.echo)) == -signal.SIGKILL


def test_threads_share_a_fork_server(server: ForkServer) -> None:
    def one(_: int) -> tuple[int, int | None, int | None]:
        process = start(server, functions.echo)
        assert responds(process)
        return process.pid, end(process), pid_of(server)

    with ThreadPoolExecutor(8) as threads:
        pids, codes, servers = zip(*threads.map(one, range(40)), strict=True)
    assert len(set(pids)) == 40
    assert set(codes) == {-signal.SIGKILL}
    assert len(set(servers)) == 1


@on_linux
def test_processes_leave_no_zombies_and_no_descriptors(server: ForkServer) -> None:
    end(start(server, functions.echo))
    before = descriptors(os.getpid())
    for process in [start(server, functions.echo) for _ in range(5)]:
        assert responds(process)
        assert sum(number > 2 for number in descriptors(process.pid)) == 1, "it has more than its connection"
        end(process)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        start(server, lambda connection: None)
    assert descriptors(os.getpid()) == before
    wait_until(lambda: psutil.Process(pid_of(server)).children() == [])
    # The three standard ones, the socket to the parent, and the pair of sockets for signals.
    wait_until(lambda: len(descriptors(pid_of(server))) == 6)


def test_a_process_has_the_search_path_and_directory_of_its_parent(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(start(server, functions.echo))  # the fork server starts before the search path changes
    module = tmp_path / "not_there_before.py"
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    process = start(server, functions.report_environment, module.stem)
    folder, found, loaded = process.connection.recv()
    assert (Path(folder), Path(found)) == (tmp_path, module)
    assert PRELOADED in loaded
    assert not any("pytest" in name for name in loaded), "it has run the main module of its parent"
    process.close()


def test_a_users_function_is_found_through_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_user.py").write_text("def grade(answer, response): return answer == response")
    monkeypatch.syspath_prepend(tmp_path)
    function = VerifyPython(function="of_a_user:grade")
    with VerifierPool(Verify(kind="python", num_workers=1, python=function)) as pool:
        assert list(pool.map([("5", "5"), ("5", "6")])) == [Verdict(True, "correct"), Verdict(False, "wrong")]


def test_ctrl_c_ends_neither_server_nor_process(server: ForkServer) -> None:
    process = start(server, functions.echo)
    os.kill(pid_of(server), signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    assert responds(process)
    assert end(process) == -signal.SIGKILL
    assert not is_gone(pid_of(server))


def test_signals_blocked_by_the_starting_thread_reach_workers(server: ForkServer) -> None:
    def start_with_blocked_signals() -> ForkedProcess:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGPROF})
        return start(server, functions.die_by_signal, signal.SIGPROF)

    with ThreadPoolExecutor(1) as thread:
        process = thread.submit(start_with_blocked_signals).result()
    assert process.exit_code(PATIENCE_SECONDS) == -signal.SIGPROF
    process.close()


PARENT = """
import sys, time
from ossft_ray.verification.fork_server import FORK_SERVER
from tests.verification import forked_functions
processes = [FORK_SERVER.start("json", getattr(forked_functions, name)) for name in sys.argv[1:]]
for process in processes:
    process.connection.send("awake")
    process.connection.recv()
print(FORK_SERVER.process.pid, *(process.pid for process in processes), flush=True)
time.sleep(3600)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "names", [["echo", "sleep_forever", "spin_forever"], ["echo"]], ids=["with its server", "after its server"]
)
def test_all_processes_end_when_the_parent_is_killed(names: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, "-c", PARENT, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 1 + len(names)
        if names == ["echo"]:
            os.kill(pids[0], signal.SIGKILL)
        assert not any(is_gone(pid) for pid in pids[1:])
        parent.kill()
    wait_until(lambda: all(is_gone(pid) for pid in pids))
