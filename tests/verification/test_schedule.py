"""The schedule of gradings, on a clock that the tests set."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossft_ray.verification.schedule import Job, Schedule
from ossft_ray.verification.worker import Task


def names(jobs: list[Job | None]) -> str:
    return "".join(str(job.task.response) if job else "-" for job in jobs)


def schedule_of(responses: str) -> Schedule:
    schedule = Schedule()
    for response in responses:
        schedule.add(Job(Task("", response)))
    return schedule


def start(schedule: Schedule, now: float = 0.0) -> Job:
    job = schedule.next(now)
    assert job is not None
    return job


def test_jobs_start_in_the_order_of_their_arrival() -> None:
    schedule = schedule_of("abc")
    assert names([schedule.next(0) for _ in range(4)]) == "abc-"


@pytest.mark.parametrize(
    "reasons, is_final, timeouts, retries",
    [
        (["correct"], [True], 0, 0),
        (["wrong"], [True], 0, 0),
        (["memory"], [True], 0, 0),
        ([None], [True], 0, 0),
        (["timeout", "correct"], [False, True], 0, 1),
        (["timeout", "timeout"], [False, True], 1, 1),
        (["timeout", "memory"], [False, True], 0, 1),
        (["crashed", "crashed", "crashed"], [False, False, True], 0, 2),
        (["crashed", "correct"], [False, True], 0, 1),
        (["crashed", "timeout", "crashed", "timeout"], [False, False, False, True], 1, 3),
        (["timeout", "crashed", "crashed", "crashed"], [False, False, False, True], 0, 3),
    ],
)
def test_which_verdicts_are_final(reasons: list[str | None], is_final: list[bool], timeouts: int, retries: int) -> None:
    schedule = schedule_of("a")
    assert [schedule.finish(start(schedule), reason, 0) for reason in reasons] == is_final
    assert (schedule.timeouts, schedule.retries) == (timeouts, retries)
    assert schedule.unfinished == []


def test_a_retry_waits_for_running_jobs_and_runs_alone() -> None:
    schedule = schedule_of("abcd")
    a, b = start(schedule), start(schedule)
    schedule.finish(a, "timeout", 5)
    assert schedule.next(5) is None, "b still runs"
    schedule.finish(b, "correct", 6)
    assert schedule.next(6) is a
    assert schedule.next(7) is None
    schedule.finish(a, "correct", 8)
    assert names([schedule.next(8), schedule.next(8)]) == "cd"


@pytest.mark.parametrize(
    "is_held_up, retry_ends, gap",
    [(True, 8, 3), (True, 15, 10), (False, 8, 2)],
)
def test_others_run_for_as_long_as_a_retry_held_them_up(is_held_up: bool, retry_ends: float, gap: float) -> None:
    schedule = schedule_of("abrcdef")
    a, b, r = start(schedule), start(schedule), start(schedule)
    schedule.finish(a, "timeout", 5)
    schedule.finish(r, "timeout", 5)
    if is_held_up:
        assert schedule.next(5) is None  # a worker idles from now on
    schedule.finish(b, "correct", 6)
    assert schedule.next(6) is a
    schedule.finish(a, "timeout", retry_ends)
    c = start(schedule, retry_ends)
    schedule.finish(c, "correct", retry_ends + gap - 0.1)
    d = start(schedule, retry_ends + gap - 0.1)
    assert names([c, d]) == "cd", "r is not due yet"
    schedule.finish(d, "correct", retry_ends + gap)
    assert schedule.next(retry_ends + gap) is r


def test_a_retry_starts_at_once_if_no_other_job_waits() -> None:
    schedule = schedule_of("ab")
    a, b = start(schedule), start(schedule)
    schedule.finish(a, "timeout", 5)
    schedule.finish(b, "timeout", 5)
    assert schedule.next(5) is a
    schedule.finish(a, "timeout", 10)
    assert schedule.next(10) is b


def test_a_job_that_lost_its_worker_is_next() -> None:
    schedule = schedule_of("abcd")
    a, b = start(schedule), start(schedule)
    schedule.finish(b, "crashed", 0)
    schedule.finish(a, "crashed", 0)
    assert names([schedule.next(0) for _ in range(4)]) == "abcd"
    assert schedule.retries == 2


def test_cancelled_jobs_never_start_and_are_final() -> None:
    schedule = schedule_of("abcd")
    a = start(schedule)
    schedule.finish(a, "timeout", 5)
    for job in schedule.unfinished:
        if str(job.task.response) in "abd":
            job.future.cancel()
    c = start(schedule, 5)
    assert c.task.response == "c"
    c.future.cancel()
    assert schedule.finish(c, "timeout", 9)
    assert schedule.next(9) is None
    assert schedule.unfinished == []
    assert schedule.timeouts == 0


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_every_job_ends_and_retries_run_alone(seed: int, num_workers: int) -> None:
    """Jobs start, end with any reason and are cancelled at any time."""
    rng, now = random.Random(seed), 0.0
    schedule = schedule_of("x" * 30)
    everything = schedule.unfinished
    running: list[Job] = []
    final: set[Job] = set()
    for _ in range(2000):
        now += rng.random()
        if len(running) < num_workers and (job := schedule.next(now)) is not None:
            running.append(job)
        elif running:
            job = running.pop(rng.randrange(len(running)))
            if schedule.finish(job, rng.choice(["correct", "timeout", "crashed", "memory", None]), now):
                assert job not in final
                final.add(job)
        else:
            break  # nothing runs and nothing can start
        if rng.random() < 0.02:
            rng.choice(everything).future.cancel()
        assert len(running) == 1 or not any(job.must_run_alone for job in running)
    assert running == [] and schedule.unfinished == []
    assert all(job in final or job.future.cancelled() for job in everything)
