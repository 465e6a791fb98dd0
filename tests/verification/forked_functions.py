"""Functions that a fork server's processes call: for tests of the fork server."""

import contextlib
import importlib
import os
import signal
import sys
import time
from multiprocessing.connection import Connection


def echoes(connection: Connection) -> None:
    """Answer each message with itself, until the other side is gone."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(connection.recv())


def exits(connection: Connection, code: int) -> None:
    os._exit(code)


def raises(connection: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise ValueError


def dies(connection: Connection, number: int) -> None:
    signal.raise_signal(number)


def sleeps(connection: Connection) -> None:
    connection.send("asleep")
    time.sleep(3600)


def spins(connection: Connection) -> None:
    connection.send("spinning")
    while True:
        pass


def looks(connection: Connection, module: str) -> None:
    """Tell the working folder, where a module is, and which modules are loaded."""
    loaded = sorted(sys.modules)
    connection.send((os.getcwd(), importlib.import_module(module).__file__, loaded))
