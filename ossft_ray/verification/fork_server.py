"""A fork server: a small process that loads what workers need, and forks them on request.

The main process must not be forked, because it may hold CUDA, threads and a vLLM engine. A fresh interpreter per worker
would take seconds to load sympy. The fork server of multiprocessing would run the user's script in each worker, or
import Ray if the main process is a Ray actor. Preventing that takes a change to `__main__`, which breaks imports on
other threads. This fork server changes nothing in the process that it serves.

A request is a byte on a socket, sent together with the ends of two pipes. The first end becomes the worker's connection
to its parent. On the second, the fork server reports the worker's process id, and later its exit code. The fork server
ends when the socket closes, so it ends with its parent.
"""

import atexit
import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

_REQUEST = b"f"
# `python -m` would import this module twice: once with its package and once as `__main__`, with a warning.
_COMMAND = f"import sys; sys.path[:] = sys.argv[3:]; from {__name__} import main; main(int(sys.argv[1]), sys.argv[2])"


@dataclass(frozen=True)
class ForkedProcess:
    """A worker process as its parent sees it."""

    pid: int
    connection: Connection  # the parent's end of the pipe to the process
    report: Connection  # receives the exit code from the fork server

    def exit_code(self, seconds: float) -> int | None:
        """Wait for the exit code, or minus the signal that ended the process.

        None if the fork server has died or does not report it within `seconds`.
        """
        with contextlib.suppress(EOFError, OSError):
            if self.report.poll(seconds):
                return int(self.report.recv())
        return None

    def close(self) -> None:
        """Close both pipes; a process that reads its connection then gets an EOFError."""
        self.connection.close()
        self.report.close()


class ForkServer:
    """The fork server as its parent sees it. It starts on first use, and again if it has died. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)

    def start(self, preload: str, function: Callable[..., None], *arguments: object) -> ForkedProcess:
        """Start a process that calls the function with its end of a connection and the arguments.

        The process has the search path and the working directory that this process has now. The function is pickled by
        name, so it must belong to an importable module. A new fork server imports the module `preload` first.

        Raises:
            OSError, EOFError: no process could be started.
        """
        with contextlib.ExitStack() as on_error:
            connection, worker_end = Pipe()
            on_error.enter_context(connection)
            report, server_end = Pipe(duplex=False)
            on_error.enter_context(report)
            with worker_end, server_end:
                self._request(preload, [worker_end.fileno(), server_end.fileno()])
            pid: int = report.recv()
            connection.send((_search_path(), os.getcwd()))
            connection.send((function, arguments))  # separately, because unpickling it needs the search path
            on_error.pop_all()
        return ForkedProcess(pid, connection, report)

    def _request(self, preload: str, ends: list[int]) -> None:
        with self._lock:
            if self.process is not None and self.process.poll() is None:
                with contextlib.suppress(ConnectionError):  # it died just now
                    socket.send_fds(self._control, [_REQUEST], ends)
                    return
            self._stop()
            self._launch(preload)
            socket.send_fds(self._control, [_REQUEST], ends)

    def _launch(self, preload: str) -> None:
        self._control, server_end = socket.socketpair()  # the server ends when this end closes
        command = [sys.executable, "-c", _COMMAND, str(server_end.fileno()), preload, *_search_path()]
        null = subprocess.DEVNULL
        with server_end:
            self.process = subprocess.Popen(command, stdin=null, stdout=null, pass_fds=[server_end.fileno()])

    def _stop(self) -> None:
        # This takes no lock: at the end of the interpreter, a thread that no longer runs may hold it.
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            self._control.close()


FORK_SERVER = ForkServer()  # of this process


def _search_path() -> list[str]:
    return [entry for entry in sys.path if isinstance(entry, str)]  # imports ignore other entries


def main(control: int, preload: str) -> None:
    """Run the fork server. `control` is the file descriptor of its end of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that launched this process may block signals
    with contextlib.suppress(Exception):  # a worker that needs the module raises the error again
        importlib.import_module(preload)
    _Forker(socket.socket(fileno=control)).serve()


class _Forker:
    """The loop of the fork server: a single thread that forks workers and reports how they end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._reports: dict[int, Connection] = {}  # by the process id of each living worker
        # Each signal writes a byte to this socket, so that the end of a worker wakes `select`.
        self._signals, self._signal_writer = socket.socketpair()
        self._signal_writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a signal without a handler would write nothing
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork a worker for each request until the parent is gone, then kill the workers."""
        while True:
            ready, _, _ = select.select([self._control, self._signals], [], [])
            if self._signals in ready:
                self._signals.recv(4096)
                self._report_exit_codes()
            if self._control in ready:
                request, ends, _, _ = socket.recv_fds(self._control, len(_REQUEST), 2)
                if not request:
                    break
                for end in ends:
                    os.set_inheritable(end, False)  # a process that a worker starts must not keep the pipe open
                self._fork(*map(Connection, ends))
        for pid in self._reports:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, connection: Connection, report: Connection) -> None:
        with connection:
            try:
                pid = os.fork()
            except OSError:  # too many processes; the parent notices that this pipe ends
                report.close()
                return
            if pid == 0:
                self._detach(report)
                _run_worker(connection)
        self._reports[pid] = report
        with contextlib.suppress(OSError):  # the parent is gone
            report.send(pid)

    def _report_exit_codes(self) -> None:
        while self._reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._reports:  # otherwise the preloaded module started this process
                with self._reports.pop(pid) as report, contextlib.suppress(OSError):
                    report.send(os.waitstatus_to_exitcode(status))

    def _detach(self, report: Connection) -> None:
        """Restore the signals and close the server's sockets and pipes in a new worker."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._signals, self._signal_writer):
            end.close()
        for connection in (report, *self._reports.values()):
            connection.close()


def _run_worker(connection: Connection) -> NoReturn:
    """Call the function that the parent sends, and exit."""
    code = 1
    try:
        sys.path[:], folder = connection.recv()
        os.chdir(folder)
        function, arguments = connection.recv()
        function(connection, *arguments)
        code = 0
    except EOFError:  # the parent is gone
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
