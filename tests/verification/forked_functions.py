"""Functions for processes that the tests start through a fork server."""

import contextlib
import importlib
import os
import signal
import sys
import time
from multiprocessing.connection import Connection


def echo(connection: Connection) -> None:
    """Send back each message, until the other side closes the connection."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(connection.recv())


def exit_with(connection: Connection, code: int) -> None:
    os._exit(code)


def raise_error(connection: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise ValueError


def die_by_signal(connection: Connection, number: int) -> None:
    signal.raise_signal(number)


def sleep_forever(connection: Connection) -> None:
    connection.send("asleep")
    time.sleep(3600)


def spin_forever(connection: Connection) -> None:
    connection.send("spinning")
    while True:
        pass


def report_environment(connection: Connection, module: str) -> None:
    """Send the working directory, the file of a module, and the names of the loaded modules."""
    loaded = sorted(sys.modules)
    connection.send((os.getcwd(), importlib.import_module(module).__file__, loaded))
