"""A small process next to this one that forks worker processes for it and has loaded what they need.

This process may hold CUDA, threads and a vLLM engine, which must not be forked, and a fresh interpreter would take
seconds to load sympy. multiprocessing has a fork server too, but it runs the user's script again in each worker
(without end, if there is no `__name__` guard), or imports Ray where this process is a Ray actor. Only a change to
`__main__` would keep it from that, and imports on other threads trip over such a change. This fork server touches
nothing of the process that it serves.

A request is a byte on a socket, together with two pipe ends. One is the worker's. On the other the fork server tells
the worker's process id, and later how the worker ended. The fork server ends when the socket does: with its parent.
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
from typing import NamedTuple, NoReturn

_REQUEST = b"f"
# Not `-m`: importing this module's package imports the module itself, and runpy warns of running it a second time.
_COMMAND = f"import sys; sys.path[:] = sys.argv[3:]; from {__name__} import main; main(int(sys.argv[1]), sys.argv[2])"


@dataclass(frozen=True)
class ForkedProcess:
    """A worker process as its parent sees it.

    Attributes:
        connection: whose other end the process has.
        told: what the fork server tells comes here.
    """

    pid: int
    connection: Connection
    told: Connection

    def exit_code(self, seconds: float) -> int | None:
        """Wait until it has ended: its exit code, or minus the signal that ended it.

        None where the fork server did not tell within so many seconds, or has died itself.
        """
        with contextlib.suppress(EOFError, OSError):
            if self.told.poll(seconds):
                code: int = self.told.recv()
                return code
        return None

    def close(self) -> None:
        """Let go of it; a process that reads its connection meets the end."""
        self.connection.close()
        self.told.close()


class _Server(NamedTuple):
    process: subprocess.Popen[bytes]
    control: socket.socket  # its end is the server's end


class ForkServer:
    """The fork server as its parent sees it: launched when first needed, and again when it has died.

    Any threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: _Server | None = None
        atexit.register(self._stop)

    @property
    def pid(self) -> int | None:
        """The fork server's process id, once there is one."""
        server = self._server
        return server.process.pid if server else None

    def start(self, preload: str, function: Callable[..., None], *arguments: object) -> ForkedProcess:
        """Start a process that calls the function with its end of a connection and the arguments.

        It finds modules and files where this process finds them now.

        Args:
            preload: a module that a new fork server loads for all its processes.
            function: is told by its name, so it stands in a module that can be imported.

        Raises:
            OSError, EOFError: no process could be started.
        """
        with contextlib.ExitStack() as mine:
            connection, theirs = Pipe()
            mine.enter_context(connection)
            told, tells = Pipe(duplex=False)
            mine.enter_context(told)
            with theirs, tells:
                self._request(preload, [theirs.fileno(), tells.fileno()])
            pid: int = told.recv()
            connection.send((_search_path(), os.getcwd()))
            connection.send((function, arguments))  # apart, for reading it takes the search path
            mine.pop_all()
        return ForkedProcess(pid, connection, told)

    def _request(self, preload: str, ends: list[int]) -> None:
        with self._lock:
            server = self._server
            if server is not None and server.process.poll() is None:
                with contextlib.suppress(ConnectionError):  # it is dying just now
                    socket.send_fds(server.control, [_REQUEST], ends)
                    return
            self._stop()
            server = self._server = _launch(preload)
            socket.send_fds(server.control, [_REQUEST], ends)

    def _stop(self) -> None:
        # Without the lock: when the interpreter ends, a thread that is no more may hold it.
        server, self._server = self._server, None
        if server is not None:
            server.process.kill()
            server.process.wait()
            server.control.close()


FORK_SERVER = ForkServer()  # of this process


def _search_path() -> list[str]:
    return [entry for entry in sys.path if isinstance(entry, str)]  # imports pass over other entries too


def _launch(preload: str) -> _Server:
    mine, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno()), preload, *_search_path()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            mine.close()
            raise
    return _Server(process, mine)


def main(control: int, preload: str) -> None:
    """Serve as the fork server whose end of the socket is the file descriptor `control`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that launched this process may block signals
    with contextlib.suppress(Exception):  # a worker that needs the module meets this again
        importlib.import_module(preload)
    _Forks(socket.socket(fileno=control)).serve()


class _Forks:
    """The fork server's own view: one thread that forks, and waits for what it has forked."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._tells: dict[int, Connection] = {}  # by the process id of each worker that lives
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler it would wake nobody
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork a worker for each request. When the parent is gone, nobody wants the workers any more either."""
        while True:
            ready, _, _ = select.select([self._control, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._tell_exit_codes()
            if self._control in ready:
                request, ends, _, _ = socket.recv_fds(self._control, len(_REQUEST), 2)
                if not request:
                    break
                self._fork(*map(_as_connection, ends))
        for pid in self._tells:
            os.kill(pid, signal.SIGKILL)

    def _fork(self, connection: Connection, tells: Connection) -> None:
        with connection:
            try:
                pid = os.fork()
            except OSError:  # out of processes, which the parent learns from the end of this pipe
                tells.close()
                return
            if pid == 0:
                tells.close()
                self._let_go()
                _work(connection)
        self._tells[pid] = tells
        with contextlib.suppress(OSError):  # the parent is gone
            tells.send(pid)

    def _tell_exit_codes(self) -> None:
        while self._tells:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._tells:  # else the preloaded module has started it
                with self._tells.pop(pid) as tells, contextlib.suppress(OSError):
                    tells.send(os.waitstatus_to_exitcode(status))

    def _let_go(self) -> None:
        """Leave a worker nothing of the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._woken, self._wakes):
            end.close()
        for tells in self._tells.values():
            tells.close()


def _as_connection(descriptor: int) -> Connection:
    os.set_inheritable(descriptor, False)  # what a worker starts must not keep the pipe open
    return Connection(descriptor)


def _work(connection: Connection) -> NoReturn:
    """Be a worker: do what the parent says, and end."""
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
