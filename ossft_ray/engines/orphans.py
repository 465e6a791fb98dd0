"""A process that ends this process's engines if this process is killed.

vLLM's engine does not notice that its parent was killed: it would idle for ever and keep its GPU's memory. Run as a
script, this file is the watcher: it holds one end of a pipe, which the system closes when the parent ends.
"""

import os
import select
import subprocess
import sys
from contextlib import suppress
from functools import cache

import psutil

_LOOK_SECONDS = 1.0  # a process that is started and orphaned between two looks is not found
_ENGINE_WORDS = ("VLLM::", "multiprocessing.")  # in the command lines of engine processes; at first the latter


@cache
def end_engines_with_this_process() -> subprocess.Popen[bytes]:
    """End this process's engines, including later ones, when it ends, however it ends."""
    command = [sys.executable, __file__, str(os.getpid())]
    # in a separate session, where no Ctrl-C reaches it
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _watch(parent_id: int) -> None:
    engines: set[psutil.Process] = set()
    ended = False
    while not ended:
        with suppress(psutil.NoSuchProcess):
            engines |= set(filter(_is_engine, psutil.Process(parent_id).children(recursive=True)))
        engines = {process for process in engines if process.is_running()}
        ended = bool(select.select([sys.stdin], [], [], _LOOK_SECONDS)[0])
    for process in engines:
        with suppress(psutil.NoSuchProcess):  # psutil checks that the id was not given to another process
            process.kill()


def _is_engine(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return any(word in command for word in _ENGINE_WORDS)
    return False


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
