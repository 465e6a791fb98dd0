"""Real processes add up their tensors over Gloo, and do not wait forever for one that is missing."""

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.thorough

PROGRAM = """
import sys
from ossft_ray.engines.all_reduce import all_reduce_seconds
rank, num, address, seconds = sys.argv[1:]
print(all_reduce_seconds(int(rank), int(num), address, 4 << 20, float(seconds)))
"""


def start(rank: int, num: int, address: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(rank), str(num), address, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_two_processes_agree_on_the_sum(address: str) -> None:
    processes = [start(rank, 2, address, 60) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all(0 < float(output) < 60 for output, _ in outputs)


def test_a_missing_process_ends_in_a_timeout(address: str) -> None:
    process = start(0, 2, address, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "timed out" in errors.lower() or "timeout" in errors.lower()
