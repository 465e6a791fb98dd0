"""Which response is graded next, and which once more: on a clock that the test sets."""

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


def take(schedule: Schedule, now: float = 0.0) -> Job:
    job = schedule.next(now)
    assert job is not None
    return job


def test_jobs_come_in_their_order() -> None:
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
def test_what_is_final(reasons: list[str | None], is_final: list[bool], timeouts: int, retries: int) -> None:
    schedule = schedule_of("a")
    assert [schedule.finish(take(schedule), reason, 0) for reason in reasons] == is_final
    assert (schedule.timeouts, schedule.retries) == (timeouts, retries)
    assert schedule.unsettled == []


def test_a_retry_waits_for_what_runs_and_nothing_begins_beside_it() -> None:
    schedule = schedule_of("abcd")
    a, b = take(schedule), take(schedule)
    schedule.finish(a, "timeout", 5)
    assert schedule.next(5) is None, "b still runs"
    assert schedule.following(b, num_idle=0, now=5) is None
    schedule.finish(b, "correct", 6)
    assert schedule.next(6) is a
    assert schedule.next(7) is None
    assert schedule.following(a, num_idle=0, now=7) is None
    schedule.finish(a, "correct", 8)
    assert names([schedule.next(8), schedule.next(8)]) == "cd"


@pytest.mark.parametrize(
    "is_refused, retry_ends, gap",
    [(True, 8, 3), (True, 15, 10), (False, 8, 2)],
)
def test_others_have_as_long_as_they_were_held_back(is_refused: bool, retry_ends: float, gap: float) -> None:
    schedule = schedule_of("abrcdef")
    a, b, r = take(schedule), take(schedule), take(schedule)
    schedule.finish(a, "timeout", 5)
    schedule.finish(r, "timeout", 5)
    if is_refused:
        assert schedule.next(5) is None  # a worker is idle from here on
    schedule.finish(b, "correct", 6)
    assert schedule.next(6) is a
    schedule.finish(a, "timeout", retry_ends)
    c = take(schedule, retry_ends)
    schedule.finish(c, "correct", retry_ends + gap - 0.1)
    d = take(schedule, retry_ends + gap - 0.1)
    assert names([c, d]) == "cd", "r is not due yet"
    schedule.finish(d, "correct", retry_ends + gap)
    assert schedule.next(retry_ends + gap) is r


def test_a_retry_is_due_at_once_when_no_other_waits() -> None:
    schedule = schedule_of("ab")
    a, b = take(schedule), take(schedule)
    schedule.finish(a, "timeout", 5)
    schedule.finish(b, "timeout", 5)
    assert schedule.next(5) is a
    schedule.finish(a, "timeout", 10)
    assert schedule.next(10) is b


def test_what_lost_its_worker_is_next() -> None:
    schedule = schedule_of("abcd")
    a, b = take(schedule), take(schedule)
    schedule.finish(b, "crashed", 0)
    schedule.put_back(a)
    assert names([schedule.next(0) for _ in range(4)]) == "abcd"
    assert schedule.retries == 1


def test_a_cancelled_job_is_passed_over_and_final() -> None:
    schedule = schedule_of("abcd")
    a = take(schedule)
    schedule.finish(a, "timeout", 5)
    for job in schedule.unsettled:
        if str(job.task.response) in "abd":
            job.future.cancel()
    c = take(schedule, 5)
    assert c.task.response == "c"
    c.future.cancel()
    assert schedule.finish(c, "timeout", 9)
    assert schedule.next(9) is None
    assert schedule.unsettled == []
    assert schedule.timeouts == 0


@pytest.mark.parametrize(
    "responses, num_idle, following",
    [("ab", 0, "b"), ("ab", 1, "-"), ("abc", 1, "b"), ("a", 0, "-"), (["a", "x" * 10_001], 0, "-")],
)
def test_what_is_lined_up_behind_another(responses: list[str], num_idle: int, following: str) -> None:
    schedule = Schedule()
    for response in responses:
        schedule.add(Job(Task("", response)))
    a = take(schedule)
    assert names([schedule.following(a, num_idle, 0)]) == following


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_every_job_ends_and_none_runs_beside_a_retry(seed: int, num_workers: int) -> None:
    """Workers that do anything at any time: jobs end somehow, are cancelled, or are put back."""
    rng, now = random.Random(seed), 0.0
    schedule = schedule_of("x" * 30)
    everything = schedule.unsettled
    running: list[Job] = []
    final: set[Job] = set()
    for _ in range(2000):
        now += rng.random()
        following = schedule.following(running[0], 0, now) if running and rng.random() < 0.3 else None
        if following is not None:
            running.append(following)
        elif len(running) < num_workers and (job := schedule.next(now)) is not None:
            running.append(job)
        elif running:
            job = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.1:
                schedule.put_back(job)
            elif schedule.finish(job, rng.choice(["correct", "timeout", "crashed", "memory", None]), now):
                assert job not in final
                final.add(job)
        else:
            break  # nothing runs and nothing can begin
        if rng.random() < 0.02:
            rng.choice(everything).future.cancel()
        assert len(running) == 1 or not any(job.is_alone for job in running)
    assert running == [] and schedule.unsettled == []
    assert all(job in final or job.future.cancelled() for job in everything)
