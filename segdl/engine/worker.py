"""A worker: one thread, one connection. It takes work, does it, reports back.

A segment crosses it in six steps: take, stream, write, commit, append, done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from segdl.core.errors import (
    BrokenError,
    ExpiredError,
    MisansweredError,
    NoRangesError,
    SegdlError,
    SizeError,
    StaleError,
    attempted,
    disk_error,
)
from segdl.core.options import KIB
from segdl.core.pace import StallWatch
from segdl.core.report import Receipt
from segdl.core.timeline import Exchange, exchange
from segdl.core.urls import ShareURL
from segdl.core.verdict import Ask
from segdl.core.work import Fetch
from segdl.edges.parts import Part
from segdl.edges.transport import Answer, Connection, Reach
from segdl.engine.aid import Assist
from segdl.engine.desk import Desk
from segdl.engine.errand import Errand
from segdl.engine.task import Task

if TYPE_CHECKING:
    from segdl.engine.runner import Runner

CHECKPOINT = 512 * KIB  # bytes read or written without a record, at most: what a kill -9 costs
LINGER = 0.5  # seconds that the first byte of a buffer waits for the last


class Dropped(Exception):
    """The work no longer counts, or the run pauses or stops: give it back, keep what is there."""


class Worker(threading.Thread):
    """One thread with one connection, until there is no more work."""

    def __init__(
        self,
        number: int,
        desk: Desk,
        reach: Reach,
        note: Callable[[Exchange], None],
        leave: Callable[[], None],
        runner: Runner | None = None,
    ) -> None:
        """`note` is told of every request; `leave` is called last of all, in the worker's own
        thread. `runner` is not started yet."""
        super().__init__(name=f"segdl-{number}", daemon=True)
        self._number = number
        self._note = note
        self._leave = leave
        self._runner = runner
        self._work: Fetch | Assist | Errand | None = None
        self._gained = 0  # bytes of this work beyond the furthest that was reached before
        self._desk = desk
        self._timeout = reach.timeout
        self._connection = Connection(reach, self._interrupted)
        self._buffer = memoryview(bytearray(CHECKPOINT))  # which fits into the cache
        self._kept: tuple[Task, int, int, Answer] | None = (
            None  # task, epoch, mirror: an answer with bytes left in it
        )

    def run(self) -> None:
        try:
            current = None
            if self._runner is not None:
                self._runner.start()
            while work := self._next_work(current):
                self._work, self._gained = work, 0
                if self._runner is not None and not isinstance(work, Errand):
                    self._runner.hang_up(self._goes_on)
                match work:
                    case Errand():
                        self._send(work)
                    case Assist():
                        self._assist(work)
                    case Fetch():
                        self._do(work)
                        current = work.job
        except BaseException as error:
            self._desk.crashed(error)
        finally:
            try:
                self._let_go()
                self._connection.close()
                if self._runner is not None:
                    self._runner.close()
            finally:
                self._leave()

    def _next_work(self, current: int | None) -> Fetch | Assist | Errand | None:
        most = self._runner.takes() if self._runner is not None else 0
        return self._desk.next_work(self._number, current, self._hang_up, most)

    def abort(self) -> None:
        """Wake a blocked read, from any thread."""
        self._connection.abort()

    def _do(self, work: Fetch) -> None:
        task = self._desk.tasks.get(work.job)
        if task is None:  # it was delivered since
            self._desk.done(self._number, work)
            return
        with task.in_use():
            try:
                self._fetch(task, work)
                self._desk.done(self._number, work)
                self._desk.keep_up(work, task)
            except Dropped:
                self._desk.dropped(self._number, work)
            except SegdlError as error:
                self._desk.failed(self._number, work, error, progress=self._gained > 0)
            except OSError as error:
                self._desk.failed(self._number, work, disk_error(error), progress=False)

    def _send(self, errand: Errand) -> None:
        """Have the runner do it: this connection is its until it is back."""
        assert self._runner is not None
        self._hang_up()
        reply = self._runner.run(errand.targets, self._goes_on)
        for target, done in zip(errand.targets, reply.done, strict=False):
            if done is not None:
                self._note(done.request)
                self._desk.outlook.answered(target.urls[0], done)
        self._desk.ran(self._number, errand, reply)

    def _assist(self, work: Assist) -> None:
        """Fetch the end of a segment that another worker is at. What goes wrong is left to that
        one: it fetches what is missing."""
        error: SegdlError | None = None
        try:
            with suppress(Dropped):
                error = attempted(self._fetch_tail, work)
        finally:
            self._desk.assisted(self._number, work, error)

    def _fetch_tail(self, work: Assist) -> None:
        task, fetch, tail = work.task, work.fetch, work.tail
        while tail.reached < tail.limit:
            answer = self._open(task, fetch, self._url(task, fetch), tail.reached, tail.limit)
            self._stream(task, fetch, answer, tail)
        task.checkpoint(tail, fetch.epoch)

    def _goes_on(self) -> bool:
        return not self._interrupted()

    def _interrupted(self) -> bool:
        return self._work is not None and not self._desk.wanted(self._work, self._number)

    # -- one segment -----------------------------------------------------------------------------

    def _fetch(self, task: Task, work: Fetch) -> None:
        if self._interrupted():
            raise Dropped  # the target may be delivered since, and its files gone
        if work.probe and task.offer is not None and self._is_there(task, work, task.offer):
            return
        began = time.monotonic()
        part = None if work.probe else self._window(task, work)
        while part is None or part.reached < part.segment.stop:
            if part is not None and part.reached == part.limit:
                self._meet(task, work, part)
                continue
            answer = self._answer(task, work, part)
            if part is None:
                if task.layout.size == 0:
                    answer.close()
                    break
                part = self._window(task, work)
            if self._stream(task, work, answer, part):
                break
        if part is None or part.reached == part.segment.start:
            self._desk.committed(work)  # the target is empty, or ended with the segment before
            return
        length = part.segment.length
        task.commit(part, work.epoch)
        self._desk.segment_done(work, length, time.monotonic() - began)

    def _is_there(self, task: Task, work: Fetch, offer: Receipt) -> bool:
        """Whether what was delivered from another place is this object, by its server's word."""
        ask = task.pinning.ask_for_offer(offer, work.mirror)
        try:
            self._ask(task, work, self._url(task, work), ask).close()
        except (StaleError, SizeError, MisansweredError):
            task.offer = None
            return False
        self._desk.confirmed(work, task, offer)
        return True

    def _window(self, task: Task, work: Fetch) -> Part:
        part = task.window(work.segment, work.epoch)
        if part is None:
            raise Dropped
        return part

    def _meet(self, task: Task, work: Fetch, part: Part) -> None:
        """The next bytes were lent: take in what has come of them. A run may be over before they
        come, and what came before them is vouched for then."""
        task.checkpoint(part, work.epoch)
        self._desk.meet(work, self._number, task, part)
        if self._interrupted():
            raise Dropped
        task.absorb(part, work.epoch)

    def _url(self, task: Task, work: Fetch) -> ShareURL:
        return task.urls[work.mirror % len(task.urls)]

    def _answer(self, task: Task, work: Fetch, part: Part | None) -> Answer:
        """An accepted answer whose next byte is the part's next: the one kept, or a new one."""
        segment = part.segment if part else task.layout.segment(work.segment)
        at, stop = (part.reached, part.limit) if part else (segment.start, segment.stop)
        if (answer := self._take_kept(task, work, at + task.pinning.offset)) is not None:
            self._answered(task, work, answer)
            return answer
        answer = self._open(task, work, self._url(task, work), at, stop)
        if work.probe and part is None:
            task.admit(answer.accepted, work.mirror)
            self._desk.admitted(self._number, work, task)
        return answer

    def _open(self, task: Task, work: Fetch, url: ShareURL, start: int, stop: int) -> Answer:
        ask = task.pinning.ask(start, max(stop, start + 1), work.mirror)
        return self._ask(task, work, url, ask)

    def _ask(self, task: Task, work: Fetch, url: ShareURL, ask: Ask) -> Answer:
        if self._interrupted():
            raise Dropped
        self._desk.outlook.check(url)
        answer = self._exchange(task, url, ask)
        self._answered(task, work, answer)
        self._desk.outlook.answered(url, answer)
        if answer.accepted.whole and not work.probe:
            answer.close()
            raise self._reconsidered(task, NoRangesError("the server ignores Range"))
        task.ranged = task.ranged or not answer.accepted.whole
        return answer

    def _exchange(self, task: Task, url: ShareURL, ask: Ask) -> Answer:
        """One request, noted for the timeline with what came of it."""
        at, began = time.time(), time.monotonic()
        outcome = attempted(self._connection.open, url, ask)
        spent, heard, error = time.monotonic() - began, self._connection.heard, None
        if isinstance(outcome, SegdlError):
            if isinstance(outcome, ExpiredError):
                self._desk.outlook.refused(url, outcome)
            if self._interrupted():
                raise Dropped from None
            error = outcome = self._reconsidered(task, outcome)
        span, name = (ask.start, ask.stop), task.target.path
        self._note(exchange(url, span, name, self._number, (at, spent), heard, error))
        if isinstance(outcome, SegdlError):
            raise outcome
        return outcome

    def _answered(self, task: Task, work: Fetch, answer: Answer) -> None:
        task.pinning.answered(work.mirror, answer.accepted)
        self._desk.answered(self._number, work, answer.accepted.quota)

    def _reconsidered(self, task: Task, error: SegdlError) -> SegdlError:
        """A server that has honoured a range in this run does not ignore them: it erred."""
        if not isinstance(error, NoRangesError):
            return error
        if task.ranged:
            return MisansweredError(error.message, status=error.status)
        if task.target.slice and task.target.slice.offset:
            return MisansweredError("the server ignores Range: it cannot give a slice")
        return error

    def _stream(self, task: Task, work: Fetch, answer: Answer, part: Part) -> bool:
        """Bytes from an answer to a part, until either ends; True if the target ends here.

        Whatever happens, what came is written and vouched for before it returns or raises.
        """
        watch, unrecorded = StallWatch(self._timeout), 0
        self._desk.streaming(self._number, part)
        try:
            while room := self._buffer[: part.claim(self._desk.portion(CHECKPOINT - unrecorded))]:
                count, trouble = self._fill(answer, room, watch)
                if count:
                    part.write(room[:count])
                    unrecorded += count
                    self._gained += task.came(part, count)
                    if self._desk.landed_more(self._number, count):
                        watch.excuse()
                if unrecorded >= CHECKPOINT or (unrecorded and (trouble or not count)):
                    task.checkpoint(part, work.epoch)
                    unrecorded = 0
                if trouble:
                    raise trouble
                if not count:
                    return self._ended(task, answer, part)
        except BaseException:
            answer.close()
            raise
        return self._keep(task, work, answer, part)

    def _fill(
        self, answer: Answer, room: memoryview, watch: StallWatch
    ) -> tuple[int, Exception | None]:
        """Read until `room` is full, the body ends, the bytes have waited long enough, or there
        is trouble: what came, and the trouble."""
        count, first = 0, 0.0
        while count < len(room):
            if self._interrupted():
                return count, Dropped()
            try:
                got = answer.readinto(room[count:])
            except TimeoutError:
                got = None
            except BrokenError as error:
                return count, Dropped() if self._interrupted() else error
            now = time.monotonic()
            if got == 0:
                break
            if got:
                first, count = first or now, count + got
            if watch.stalled(now, answer.at):
                stall = BrokenError(f"less than 1 KiB a second came for {watch.window:g} seconds")
                return count, stall
            if count and now - first >= LINGER:
                break
        return count, None

    def _ended(self, task: Task, answer: Answer, part: Part) -> bool:
        """The body ended properly before the part: the rest is asked for, or there is none."""
        answer.close()
        if answer.accepted.stop is not None or task.layout.size is not None:
            if answer.accepted.stop is None:
                raise BrokenError("the body ended early")
            return False
        if not answer.framed and not task.target.digests:
            raise BrokenError(
                "the body ended with the connection, and nothing says how long it is: "
                "give its size or a digest in the manifest"
            )
        task.learn_end(part.reached)
        task.truncate(part)
        return True

    def _keep(self, task: Task, work: Fetch, answer: Answer, part: Part) -> bool:
        """The part is full: keep an answer that has more, for the segment that follows."""
        if part.reached < part.segment.stop:  # the rest was lent
            answer.close()
            return False
        end = task.layout.size is not None and part.segment.stop == task.layout.size
        stop = answer.accepted.stop
        if end and stop is None:
            self._expect_end(answer)
        if end or answer.at == stop:
            answer.close()
        else:
            self._kept = (task, work.epoch, work.mirror, answer)
        return False

    def _expect_end(self, answer: Answer) -> None:
        """A body of unknown length must end where the manifest says that the target does."""
        watch = StallWatch(self._timeout)
        count, trouble = self._fill(answer, memoryview(bytearray(1)), watch)
        if count or trouble:
            answer.close()
        if trouble:
            raise trouble
        if count:
            raise SizeError("the object is longer than the manifest says")

    def _take_kept(self, task: Task, work: Fetch, at: int) -> Answer | None:
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        if kept[:3] == (task, work.epoch, work.mirror) and kept[3].at == at:
            return kept[3]
        kept[3].close()
        return None

    def _hang_up(self) -> None:
        self._let_go()
        self._connection.hang_up()

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept[3].close()
            self._kept = None
