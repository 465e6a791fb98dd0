"""Workers start without a trace in their parent, end with it, and tell how they ended; the fork server may die."""

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

import forked_functions
import psutil
import pytest

from ossft_ray.verification import Verdict, VerifierPool
from ossft_ray.verification.fork_server import ForkedProcess, ForkServer
from ossft_ray.verification.worker import Worker

PRELOADED = "colorsys"  # a module that nothing else loads
PATIENCE_SECONDS = 30.0
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server._stop()


def start(server: ForkServer, function: Any, *arguments: object) -> ForkedProcess:
    return server.start(PRELOADED, function, *arguments)


def end(process: ForkedProcess) -> int | None:
    os.kill(process.pid, signal.SIGKILL)
    code = process.exit_code(PATIENCE_SECONDS)
    process.close()
    return code


def answers(process: ForkedProcess) -> bool:
    process.connection.send("hello")
    return bool(process.connection.recv() == "hello")


def descriptors(pid: int) -> set[int]:
    """What a process has open."""
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


def test_imports_on_another_thread_meet_an_unchanged_main_module() -> None:
    """Loading vLLM and torch calls `inspect.getmodule`, which raises where `__main__.__file__` is None."""
    errors: list[Exception] = []
    stop = threading.Event()

    def inspect_modules() -> None:
        while not stop.is_set():
            try:
                inspect.stack()
                # Of a file that inspect has not met yet, so that it looks at all modules.
                inspect.getmodule(compile("", f"<{time.monotonic_ns()}>", "exec"))
            except Exception as error:
                errors.append(error)
                return

    multiprocessings = multiprocessing.forkserver._forkserver
    before = dict(vars(sys.modules["__main__"])), dict(vars(multiprocessings))
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
    assert (dict(vars(sys.modules["__main__"])), dict(vars(multiprocessings))) == before


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        (forked_functions.exits, [0], 0),
        (forked_functions.exits, [99], 99),
        (forked_functions.raises, [], 1),
        (forked_functions.dies, [signal.SIGPROF], -signal.SIGPROF),
        (forked_functions.dies, [signal.SIGKILL], -signal.SIGKILL),
    ],
)
def test_it_is_told_how_a_process_ended(server: ForkServer, function: Any, arguments: list[Any], code: int) -> None:
    process = start(server, function, *arguments)
    assert process.exit_code(PATIENCE_SECONDS) == code
    process.close()


def test_a_process_that_lives_has_no_exit_code_yet(server: ForkServer) -> None:
    process = start(server, forked_functions.echoes)
    assert process.exit_code(0.1) is None
    assert answers(process)
    assert end(process) == -signal.SIGKILL


def test_a_process_ends_when_its_connection_does(server: ForkServer) -> None:
    process = start(server, forked_functions.echoes)
    process.connection.close()
    assert process.exit_code(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("is_reaped", [False, True], ids=["left", "reaped by someone else"])
def test_a_killed_fork_server_is_replaced_and_its_processes_live(server: ForkServer, is_reaped: bool) -> None:
    first = start(server, forked_functions.echoes)
    killed = server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    if is_reaped:
        os.waitpid(killed, 0)
    else:
        wait_until(lambda: is_gone(killed))
    second = start(server, forked_functions.echoes)
    assert server.pid != killed
    assert not psutil.pid_exists(killed), "it is left as a zombie"
    assert answers(first) and answers(second)
    assert end(first) is None, "nobody is left to tell"
    assert end(second) == -signal.SIGKILL


def test_a_fork_server_that_dies_while_a_process_starts_is_an_error_once(server: ForkServer) -> None:
    end(start(server, forked_functions.echoes))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        starting = threads.submit(start, server, forked_functions.echoes)
        time.sleep(0.2)  # until it waits for the fork server that stands still
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises((EOFError, OSError)):
            starting.result(PATIENCE_SECONDS)
    assert end(start(server, forked_functions.echoes)) == -signal.SIGKILL


def test_many_threads_share_a_fork_server(server: ForkServer) -> None:
    def one(_: int) -> tuple[int, int | None, int | None]:
        process = start(server, forked_functions.echoes)
        assert answers(process)
        return process.pid, end(process), server.pid

    with ThreadPoolExecutor(8) as threads:
        pids, codes, servers = zip(*threads.map(one, range(40)), strict=True)
    assert len(set(pids)) == 40
    assert set(codes) == {-signal.SIGKILL}
    assert len(set(servers)) == 1


@on_linux
def test_processes_leave_no_zombies_and_no_descriptors(server: ForkServer) -> None:
    end(start(server, forked_functions.echoes))
    own = descriptors(os.getpid())
    for process in [start(server, forked_functions.echoes) for _ in range(5)]:
        assert answers(process)
        assert sum(number > 2 for number in descriptors(process.pid)) == 1, "it has its connection alone"
        end(process)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        start(server, lambda connection: None)
    assert descriptors(os.getpid()) == own
    assert server.pid is not None
    wait_until(lambda: psutil.Process(server.pid).children() == [])
    # The standard three, its socket, and the two ends of what wakes it when a process ends.
    wait_until(lambda: len(descriptors(server.pid)) == 6)


def test_a_process_finds_what_its_parent_finds(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(start(server, forked_functions.echoes))  # the fork server runs before the search path changes
    module = tmp_path / "not_there_before.py"
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    process = start(server, forked_functions.looks, module.stem)
    folder, found, loaded = process.connection.recv()
    assert (Path(folder), Path(found)) == (tmp_path, module)
    assert PRELOADED in loaded
    assert not any("pytest" in name for name in loaded), "it has run its parent's main module"
    process.close()


def test_a_users_function_is_found_through_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_user.py").write_text("def grade(answer, response): return answer == response")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"python": {"function": "of_a_user:grade"}}
    with VerifierPool("python", num_workers=1, settings=settings) as pool:
        assert list(pool.map([("5", "5"), ("5", "6")])) == [Verdict(True, "correct"), Verdict(False, "wrong")]


def test_ctrl_c_is_for_the_parent(server: ForkServer) -> None:
    process = start(server, forked_functions.echoes)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    assert answers(process)
    assert end(process) == -signal.SIGKILL
    assert not is_gone(server.pid)


def test_signals_that_a_starting_thread_blocks_reach_workers(server: ForkServer) -> None:
    def start_with_blocked_signals() -> ForkedProcess:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGPROF})
        return start(server, forked_functions.dies, signal.SIGPROF)

    with ThreadPoolExecutor(1) as thread:
        process = thread.submit(start_with_blocked_signals).result()
    assert process.exit_code(PATIENCE_SECONDS) == -signal.SIGPROF
    process.close()


PARENT = """
import sys, time, forked_functions
from ossft_ray.verification.fork_server import FORK_SERVER
processes = [FORK_SERVER.start("json", getattr(forked_functions, name)) for name in sys.argv[1:]]
for process in processes:
    process.connection.send("awake")
    process.connection.recv()
print(FORK_SERVER.pid, *(process.pid for process in processes), flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("names", [["echoes", "sleeps", "spins"], ["echoes"]], ids=["with", "without a fork server"])
def test_nothing_is_left_when_the_parent_is_killed(names: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", PARENT, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 1 + len(names)
        if names == ["echoes"]:
            os.kill(pids[0], signal.SIGKILL)
        assert not any(is_gone(pid) for pid in pids[1:])
        parent.kill()
    wait_until(lambda: all(is_gone(pid) for pid in pids))
