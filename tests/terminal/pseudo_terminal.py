"""Run a command under a pseudo-terminal of a given width, as a user would see it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from typing import NamedTuple

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Session(NamedTuple):
    """What a command wrote to its terminal."""

    lines: list[str]  # without control sequences; a bar that was redrawn leaves a line for each drawing
    code: int

    @property
    def widest(self) -> int:
        return max(map(len, self.lines))


def run_on_terminal(
    command: list[str], columns: int, interrupt_at: str | None = None, seconds: float = 300.0
) -> Session:
    """Run a command to its end; press Ctrl-C once when the text `interrupt_at` has appeared.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored where the tests run in the background
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    written, deadline = b"", time.monotonic() + seconds
    while True:
        if time.monotonic() > deadline:
            os.kill(process, 9)
            raise TimeoutError(written.decode(errors="replace")[-2000:])
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                chunk = os.read(terminal, 1 << 16)
            except OSError:  # how Linux says that the other side has closed
                break
            written += chunk
        if interrupt_at is not None and interrupt_at in written.decode(errors="replace"):
            os.write(terminal, b"\x03")
            interrupt_at = None
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    text = _CONTROL.sub("", written.decode(errors="replace"))
    return Session(re.split(r"[\r\n]+", text), os.waitstatus_to_exitcode(status))
