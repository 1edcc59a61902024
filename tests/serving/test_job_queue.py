"""One job at a time, in order; bounded, cancelled at a step, errors in one line."""

import threading

import pytest

from soraflax.generation import progress
from soraflax.serving import job_queue

SOON = 10.0  # seconds that no wait here takes


@pytest.fixture
def queue():
    with job_queue.JobQueue(2) as found:
        yield found


class Gate:
    """Work that goes on until it is let go, or cancelled at one of its steps."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, ticket):
        self.begun.set()
        for done in range(1, 10_000):
            if ticket.step(progress.Step(done, 10_000, list)):
                raise job_queue.CancelledError
            if self.open.wait(0.001):
                return "made"
        raise AssertionError("neither let go nor cancelled")


def started(queue):
    gate = Gate()
    ticket = queue.submit(gate)
    assert gate.begun.wait(SOON)
    return gate, ticket


def test_what_the_work_returns_is_the_result(queue):
    ticket = queue.submit(lambda ticket: 7)
    assert ticket.wait(SOON)
    assert (ticket.state, ticket.result, ticket.error) == ("done", 7, "")
    assert queue.is_idle and ticket.seconds >= 0


def test_jobs_run_one_at_a_time_in_their_order(queue):
    running, order = [], []

    def work(name):
        def run(ticket):
            running.append(name)
            order.append((name, len(running)))
            running.remove(name)

        return run

    gate, first = started(queue)
    later = [queue.submit(work(name)) for name in "ab"]
    assert [first.position, *(ticket.position for ticket in later)] == [0, 1, 2]
    assert [ticket.state for ticket in later] == ["waiting", "waiting"]
    gate.open.set()
    assert all(ticket.wait(SOON) for ticket in [first, *later])
    assert order == [("a", 1), ("b", 1)]


def test_a_full_queue_refuses_until_there_is_room(queue):
    gate, _ = started(queue)
    waiting = [queue.submit(lambda ticket: None) for _ in range(2)]
    for refuse in (queue.check_room, lambda: queue.submit(lambda ticket: None)):
        with pytest.raises(job_queue.QueueFullError, match="full, 2 wait: try again"):
            refuse()
    queue.cancel(waiting[0])
    assert waiting[0].state == "cancelled" and waiting[1].position == 1
    queue.submit(lambda ticket: None)
    gate.open.set()


def test_a_queue_without_places_takes_one_job():
    with job_queue.JobQueue(0) as queue:
        gate, _ = started(queue)
        with pytest.raises(job_queue.QueueFullError, match="busy"):
            queue.submit(lambda ticket: None)
        gate.open.set()


def test_the_running_job_stops_at_its_next_step(queue):
    _, ticket = started(queue)
    after = queue.submit(lambda ticket: "next")
    queue.cancel(ticket)
    assert ticket.wait(SOON) and ticket.state == "cancelled"
    assert ticket.result is None and ticket.error == ""
    assert after.wait(SOON) and after.result == "next"


def test_work_that_ends_although_cancelled_is_cancelled(queue):
    def work(ticket):
        ticket.cancel()
        return "too late"

    ticket = queue.submit(work)
    assert ticket.wait(SOON)
    assert (ticket.state, ticket.result) == ("cancelled", None)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("100 frames:\n use 97"), "100 frames: use 97"),
        (MemoryError(), "out of memory: use a smaller size or fewer frames"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "out of memory: use a smaller"),
        (TypeError("not\nthis"), "TypeError: not this (the server's log has more)"),
    ],
)
def test_what_goes_wrong_is_one_line_and_the_next_job_runs(queue, error, line):
    def work(ticket):
        raise error

    ticket = queue.submit(work)
    after = queue.submit(lambda ticket: "next")
    assert ticket.wait(SOON) and ticket.state == "failed"
    assert ticket.error.startswith(line) and "\n" not in ticket.error
    assert after.wait(SOON) and after.result == "next"


def test_only_mistakes_go_to_the_log(caplog):
    job_queue.explain(ValueError("bad input"))
    assert not caplog.records
    job_queue.explain(TypeError("a mistake"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_progress_and_time_left(queue):
    ticket = job_queue.Ticket()
    assert ticket.remaining is None and ticket.seconds == 0.0
    for done in (1, 2, 3):
        assert not ticket.step(progress.Step(done, 4, list))
    assert (ticket.done, ticket.total) == (3, 4)
    assert ticket.remaining is not None and ticket.remaining >= 0


def test_closing_cancels_what_runs_and_what_waits():
    queue = job_queue.JobQueue(1)
    _, running = started(queue)
    waiting = queue.submit(lambda ticket: None)
    queue.close(SOON)
    assert [running.state, waiting.state] == ["cancelled", "cancelled"]
    with pytest.raises(job_queue.QueueFullError, match="being stopped"):
        queue.submit(lambda ticket: None)
    with pytest.raises(ValueError, match="use 0 or more"):
        job_queue.JobQueue(-1)
