"""Fixtures that several test folders share, such as one Ray for the whole session."""

import os
import sys
from collections.abc import Callable, Iterator

import pytest

os.environ["OSSFT_CACHE"] = ""  # test runs share nothing, and leave nothing in the user's home
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other on busy cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared Ray."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray, which stages find instead of starting one."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # not 10,000: a test waits for workers' counters
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Callable[..., str]]:
    """`command("show")` runs `ossft show` and returns its standard output, or its standard error if it fails."""
    from ossft_ray.cli import main

    def of(name: str) -> Callable[..., str]:
        def run(*arguments: str, code: int = 0) -> str:
            monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # ossft sets it, and it would stay set
            monkeypatch.setattr(sys, "argv", ["ossft", name, *arguments])
            with pytest.raises(SystemExit) as leaving:
                main()
            written = capsys.readouterr()
            assert leaving.value.code == code, written.err
            return written.err if code else written.out

        return run

    return of
