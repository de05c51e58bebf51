"""An order under way: its workers started, its events delivered, its report made.

The caller's thread delivers events and hears Ctrl-C; no thread outlives `run`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from segdl.core import events
from segdl.core.errors import ExitCode, ExpiredError, SegdlError, disk_error
from segdl.core.manifest import Manifest, Target
from segdl.core.options import Options
from segdl.core.pace import Rate
from segdl.core.plan import asked_size, segment_size
from segdl.core.report import Failure, Receipt, Report
from segdl.core.runway import last_end
from segdl.edges.cores import cores
from segdl.edges.index import read_index
from segdl.edges.manifest_file import ManifestFile
from segdl.edges.transport import Reach
from segdl.edges.workspace import Workspace, work_name
from segdl.engine.chronicle import Chronicle
from segdl.engine.control import Control
from segdl.engine.delivery import Delivery
from segdl.engine.desk import Desk
from segdl.engine.errand import WORTH, is_small
from segdl.engine.merger import Merger
from segdl.engine.outcomes import target_done
from segdl.engine.renewal import Renewal
from segdl.engine.salvage import Salvage
from segdl.engine.task import DRAFT, Task
from segdl.engine.worker import Worker

if TYPE_CHECKING:
    from segdl.engine.runner import Runner

_TICK = 0.1  # seconds between two progress events
_BREATH = 0.005  # seconds between two handfuls of events
_RATE_OVER = 5.0  # seconds

Listener = Callable[[events.Event], None]


class Order:
    """One run over one order."""

    def __init__(
        self,
        manifest: Manifest,
        targets: tuple[Target, ...],
        workspace: Workspace,
        delivery: Delivery,
        options: Options,
        salvage: Salvage,
        listener: Listener,
        file: ManifestFile | None = None,
    ) -> None:
        """`targets` are those of the manifest that this run is for, `file` is where it was read."""
        self._manifest = manifest
        self._targets = targets
        self._workspace = workspace
        self._delivery = delivery
        self._salvage = salvage
        self._options = options
        self._chronicle = Chronicle(workspace.hidden)
        self._listener = self._chronicle.heard_by(listener)
        self._events: queue.SimpleQueue[events.Event | None] = (
            queue.SimpleQueue()
        )  # None: a thread left
        self._desk = Desk(targets, self._make_task, options, delivery, self._events.put)
        self._failed: dict[int, SegdlError] = {}  # before any work could be done
        self._before: frozenset[str] = frozenset()  # paths delivered before this run
        self._offers: dict[str, Receipt] = {}  # by path, of the same object, perhaps
        self._workers: list[Worker] = []
        self._mergers: list[Merger] = []
        self._left = 0  # threads that are done, with all their events delivered
        self._rate = Rate(_RATE_OVER)
        self._segment_size = asked_size(manifest, options)
        self._runners = 0
        self._file = file
        self._renewal: Renewal | None = None

    def run(self, receipts: Mapping[str, Receipt], control: Control) -> Report:
        """Deliver what is not delivered yet. Raises UsageError for what no server could be reached
        with, and what a listener raises, after a clean end."""
        try:
            return self._run(receipts, control)
        finally:
            self._chronicle.close()

    def _run(self, receipts: Mapping[str, Receipt], control: Control) -> Report:
        began = time.monotonic()
        try:
            reach = reach_of(self._manifest, self._options)
            self._prepare(receipts)
            control.attach(self._desk)
            if len(self._before) + len(self._failed) < len(self._targets):
                self._renew(reach)
                self._watch(reach)
        except BaseException:
            self._desk.stop(ExitCode.INTERRUPTED)
            raise
        finally:
            control.detach()
            self._end()
        if self._desk.crash is not None:
            raise self._desk.crash
        return self._finish(time.monotonic() - began)

    # -- before ------------------------------------------------------------------------------------

    def _prepare(self, receipts: Mapping[str, Receipt]) -> None:
        under_way = self._workspace.under_way()
        before: list[Receipt] = []
        tasks: dict[int, Task] = {}
        for number, target in enumerate(self._targets):
            begun = bool(under_way) and work_name(target.path) in under_way
            try:
                receipt = receipts.get(target.path)
                if receipt is not None and self._delivery.believed(target, receipt):
                    before.append(receipt)
                    self._desk.outcomes.delivered_before(number, receipt)
                    if begun:  # a crash came between the receipt and the clean-up
                        self._workspace.remove_work(target.path)
                elif begun:
                    tasks[number] = self._begun(target)
                elif self._salvage.offers(target):
                    self._desk.offer(number)
                else:
                    if receipt is not None and self._delivery.perhaps(target, receipt):
                        self._offers[target.path] = receipt
                    self._desk.expect(number)
            except OSError as error:
                self._failed[number] = disk_error(error)
        for number in sorted(tasks, key=lambda number: last_end(self._targets[number].urls)):
            offered = self._salvage.offers(self._targets[number])
            self._desk.enter(number, tasks[number], offered=offered)
        self._before = frozenset(receipt.path for receipt in before)
        tally, held = self._desk.outcomes.tally, self._desk.outcomes.present()
        self._listener(
            events.OrderStarted(targets=len(self._targets), bytes=tally.total, held=held)
        )
        for receipt in before:
            self._listener(target_done(receipt, 0.0, fetched=False))
        for number, failure in self._failed.items():
            self._desk.outcomes.tell_failure(self._targets[number], failure)

    def _make_task(self, target: Target) -> Task:
        asked = segment_size(target, self._manifest, self._options)
        task = Task(target, self._workspace, asked)
        task.offer = self._offers.get(target.path)
        return task

    def _begun(self, target: Target) -> Task:
        """The task of a target under way, with what its index holds."""
        task = self._make_task(target)
        folder = self._workspace.open_work(target.path)
        try:
            task.adopt(read_index(folder))
        finally:
            os.close(folder)
        return task

    # -- while it runs -----------------------------------------------------------------------------

    def _renew(self, reach: Reach) -> None:
        """Let somebody see to fresh links, where there is anywhere to have them from."""
        renewal = Renewal(
            self._desk, self._file, self._manifest, reach, self._options, self._events.put
        )
        self._renewal = renewal
        renewal.start()

    def _watch(self, reach: Reach) -> None:
        """Deliver events until every thread has left."""
        due = 0.0
        self._runners = self._count_runners()
        self._desk.expect_runners(self._runners)
        self._hire_mergers()
        self._hire(reach)
        while self._left < len(self._threads):
            self._deliver_events(time.monotonic() + _TICK)
            if (now := time.monotonic()) >= due:
                due = now + _TICK
                self._listener(self._progress(now))
                self._chronicle.keep_up(now)
            if self._desk.stopped is not None:
                self._abort()
            elif not self._left:
                self._desk.look()
                self._hire(reach)
        self._deliver_events(0.0)

    def _hire(self, reach: Reach) -> None:
        """Start as many workers as are allowed by now."""
        for number in range(len(self._workers), self._desk.allowed):
            worker = Worker(
                number,
                self._desk,
                reach,
                self._chronicle.note,
                lambda: self._events.put(None),
                self._runner(number, reach) if number < self._runners else None,
            )
            self._workers.append(worker)
            worker.start()

    def _runner(self, number: int, reach: Reach) -> Runner:
        from segdl.engine.runner import Runner  # which few orders have any use for

        return Runner(number, self._workspace, self._segment_size, reach)

    def _count_runners(self) -> int:
        """How many runners are worth their start: one a core, where there are many small files."""
        small = (t for t in self._targets if is_small(t) and t.path not in self._before)
        worth = sum(1 for _ in small) >= WORTH and not self._offers
        drafts = self._segment_size is None or self._segment_size >= DRAFT
        if not (worth and drafts and self._workspace.can_draft()):
            return 0
        from segdl.engine.runner import can_run

        return cores() if can_run() else 0

    def _hire_mergers(self) -> None:
        for number in range(min(cores(), len(self._targets))):
            merger = Merger(
                number, self._desk, self._delivery, self._salvage, lambda: self._events.put(None)
            )
            self._mergers.append(merger)
            merger.start()

    @property
    def _threads(self) -> list[threading.Thread]:
        return [*self._workers, *self._mergers]

    def _deliver_events(self, deadline: float) -> None:
        """Hand the listener the events that come before `deadline`; past it, those at hand.

        They come in handfuls: to wake for each would take the interpreter from the workers.
        """
        while True:
            left = deadline - time.monotonic()
            try:
                event = self._events.get(timeout=left) if left > 0 else self._events.get_nowait()
                while True:
                    self._deliver_event(event)
                    event = self._events.get_nowait()
            except queue.Empty:
                if left <= 0 or self._left == len(self._threads):
                    return
            if not self._left:
                time.sleep(_BREATH)

    def _deliver_event(self, event: events.Event | None) -> None:
        if event is None:
            self._left += 1
        else:
            self._listener(event)

    def _progress(self, now: float) -> events.Progress:
        jobs = sorted({work.job for work in list(self._desk.busy.values())})
        tasks = [task for job in jobs if (task := self._desk.tasks.get(job))]
        return events.Progress(
            bytes=self._desk.outcomes.present(),
            total=self._desk.outcomes.tally.total,
            rate=round(self._rate.look(now, self._desk.landed)),
            connections=len(self._desk.busy),
            in_flight={t.target.path: (t.present(), t.layout.size) for t in tasks},
        )

    # -- after -------------------------------------------------------------------------------------

    def _abort(self) -> None:
        for worker in self._workers:
            worker.abort()

    def _end(self) -> None:
        """Wait for every thread, through any number of Ctrl-C, and close what they used."""
        interrupt: KeyboardInterrupt | None = None
        threads = list(self._threads)
        if self._renewal is not None:
            self._renewal.stop()
            threads.extend(self._renewal.threads)
        while alive := [thread for thread in threads if thread.is_alive()]:
            if self._desk.stopped is not None:
                self._abort()
            try:
                alive[0].join()
            except KeyboardInterrupt as again:
                self._desk.stop(ExitCode.INTERRUPTED)
                interrupt = again
        for task in self._desk.tasks.values():
            task.over = True
            task.close_if_over()
        if interrupt is not None:
            raise interrupt

    def _finish(self, seconds: float) -> Report:
        outcomes, stopped = self._desk.outcomes, self._desk.stopped
        done = outcomes.receipts
        failures = self._failed | outcomes.unfinished(stopped=stopped is not None)
        paths = {number: self._targets[number].path for number in sorted(failures)}
        report = Report(
            receipts=tuple(done[n] for n in sorted(done)),
            failures=tuple(Failure(p, failures[n].about(p)) for n, p in paths.items()),
            bytes=self._desk.landed,
            seconds=seconds,
            skipped=self._before | outcomes.recognised,
            stopped=stopped if failures else None,
            left_out=tuple(outcomes.left_out.values()),
            taken=self._salvage.taken(t for t in self._targets if t.path not in self._before),
        )
        self._deliver_events(0.0)
        for failure in report.failures:
            if isinstance(failure.error, ExpiredError):  # it waited for a link to the end
                self._listener(
                    events.TargetFailed(target=failure.path, **events.trouble(failure.error))
                )
        finished = events.OrderFinished(
            delivered=len(report.receipts),
            failed=len(report.failures),
            bytes=report.bytes,
            seconds=round(report.seconds, 3),
            exit_code=int(report.exit_code),
        )
        self._listener(finished)
        return report


def reach_of(manifest: Manifest, options: Options) -> Reach:
    """How the servers of an order are reached. Raises UsageError for what none could be."""
    reach = Reach(
        timeout=options.timeout,
        ca_file=options.ca_file,
        cert=options.cert,
        key=options.key,
        proxy=options.proxy,
        connect_to=dict(options.connect_to),
        headers=options.headers,
        by_origin=manifest.headers,
    )
    reach.check()
    return reach
