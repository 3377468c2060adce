"""`fledge data synth`: a few seeds, facts or documents -> many rows, made by a teacher and let through by the gate.

The order of things is what keeps evaluation honest and money safe: first it is settled which sources (or wordings) are
held out, then questions are varied; every answer of a teacher is on disk before it is looked at; rows are judged in the
order of the requests, whichever answer came first, so that a run that was killed comes out as if it had not been.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

from fledge.data.checks.language import language_of
from fledge.data.synth import asking, frames
from fledge.data.synth.diversity import distance_within, distinct_2
from fledge.data.synth.gate import Candidate, Gate, Reason
from fledge.data.synth.journal import Journal, Said
from fledge.data.synth.material import Hold, Material, Side, Source, held_groups, wordings_for
from fledge.errors import DataError, Finding, TeacherError
from fledge.recipes.teachers import Budget, Manner, Teacher, most_tokens_in
from fledge.records import Conversation

# So many requests about one source bring nothing new before it counts as exhausted.
DRY_REQUESTS = 3
# So many requests in a row that fail end the run: the teacher is down.
FAILED_IN_A_ROW = 5
REQUESTS_A_ROUND = 8

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Order:
    """What is wanted: rows in all, the share of them held out and what `hold` means by that, and the seed."""

    num_rows: int
    eval_share: float = 0.0
    hold: Hold = Hold.FACTS
    seed: int = 0


@dataclass
class Lot:
    """What one source still owes to one side. `waiting` are candidates that were made and not judged yet."""

    source: Source
    side: Side
    quota: int
    waiting: Iterator[Candidate] = field(default_factory=lambda: iter(()))
    kept: list[Conversation] = field(default_factory=list)
    num_asked: int = 0
    dry: int = 0
    exhausted: bool = False

    @property
    def owed(self) -> int:
        return 0 if self.exhausted else max(0, self.quota - len(self.kept))


@dataclass
class Grown:
    """What came out. `dropped` counts rows by reason, `failed` requests without an answer; `stopped` says why early."""

    train: list[Conversation]
    held_out: list[Conversation]
    made: int
    dropped: Counter[Reason]
    failed: int
    stopped: str
    diversity: float
    diversity_within: float
    reused: int
    seconds: float = 0.0

    @property
    def kept(self) -> int:
        return len(self.train) + len(self.held_out)


def lots_of(material: Material, order: Order) -> list[Lot]:
    """Return what each source owes to each side; this is the split, before a single question is varied."""
    sources = material.sources
    share = order.eval_share
    num_eval = round(order.num_rows * share)
    if order.hold is Hold.WORDINGS or not share:
        learnt, held = list(sources), list(sources) if share else []
    else:
        groups = held_groups([source.group for source in sources], share, seed=order.seed)
        learnt = [source for source in sources if source.group not in groups]
        held = [source for source in sources if source.group in groups]
    wanted = ((Side.TRAIN, order.num_rows - num_eval, learnt), (Side.EVAL, num_eval, held))
    return [lot for side, total, own in wanted for lot in _lots(side, total, own, seed=order.seed)]


def _lots(side: Side, total: int, sources: Sequence[Source], *, seed: int) -> list[Lot]:
    """Return a lot for each source, as even as can be; which ones get a row more is drawn, not the first."""
    drawn = sorted(sources, key=lambda source: hashlib.sha256(f"{seed}\0{source.group}".encode()).digest())
    quotas = dict(zip((source.group for source in drawn), _even(total, len(sources)), strict=True))
    return [Lot(source, side, quotas[source.group]) for source in sources]


def _even(total: int, parts: int) -> list[int]:
    return [total // parts + (place < total % parts) for place in range(parts)]


class Grower:
    """One run: lots, the gate, and what was made, dropped and kept so far."""

    def __init__(self, material: Material, order: Order, *, progress: Progress = lambda *_: None) -> None:
        self._material, self._order, self._progress = material, order, progress
        said = "\n".join(f"{question}\n{answer}" for question, answer in material.examples)
        self._gate = Gate(material.template, language=language_of(said))
        self.lots = lots_of(material, order)
        self.dropped: Counter[Reason] = Counter()
        self.made = self.kept = self.failed = self.reused = 0
        self.stopped = ""
        self._started = time.monotonic()

    def by_frames(self) -> Grown:
        """Make the rows without a model. Raises DataError for sources that nobody says how to ask about."""
        self._refuse_wordless()
        for lot in self.lots:
            lot.waiting = self._framed(lot)
        while open_lots := self._open():
            for lot in open_lots:
                self._take(lot)
                lot.exhausted = lot.exhausted or lot.owed > 0
            self._raise_quotas()
        return self._grown()

    def _refuse_wordless(self) -> None:
        findings = [
            Finding(
                "data.bad_row", source.where, "frames do not know how to ask about it.",
                "Give it a question or two (column 'questions'), or ask a teacher that is a model.",
            )
            for source in self._material.sources
            if not source.wordings or source.values is None
        ]  # fmt: skip
        if findings:
            raise DataError.from_findings(findings)

    def _framed(self, lot: Lot) -> Iterator[Candidate]:
        source, values = lot.source, lot.source.values
        assert values is not None
        split = self._order.hold is Hold.WORDINGS and self._order.eval_share > 0
        wordings = wordings_for(source, lot.side if split else None, seed=self._order.seed)
        held_out = lot.side is Side.EVAL if split else None
        made = frames.questions(
            wordings, name=source.group, seed=self._order.seed, held_out=held_out, keep=(*source.keys, *values)
        )
        for question in made:
            yield Candidate(source, lot.side, question, self._material.template.render(question, values), values)

    def by_teacher(self, teacher: Teacher, journal: Journal, budget: Budget, manner: Manner) -> Grown:
        """Make the rows by asking. Raises what the teacher raises when it is down; what was answered is kept."""
        asker = _Asker(teacher, journal, budget, manner, lambda: self._tell(budget))
        while not self.stopped and (open_lots := self._open()):
            jobs = [(lot, request) for lot in open_lots for request in self._requests(lot, teacher.name)]
            answers = asker.ask_all([request for _, request in jobs], readable=partial(self._can_read, jobs))
            fresh: dict[int, bool] = {}
            for (lot, request), said in zip(jobs, answers, strict=True):
                before = len(lot.kept)
                if said is not None:
                    self._judge(lot, request, said)
                    self._tell(budget)
                fresh[id(lot)] = fresh.get(id(lot), False) or len(lot.kept) > before
            for lot in open_lots:
                lot.dry = 0 if fresh.get(id(lot)) else lot.dry + 1
                lot.exhausted = lot.dry >= DRY_REQUESTS
            self.failed, self.reused, self.stopped = asker.failed, asker.reused, asker.stopped
            self._raise_quotas()
        return self._grown()

    def _can_read(self, jobs: Sequence[tuple[Lot, asking.Request]], place: int, said: Said) -> bool:
        lot, request = jobs[place]
        return asking.candidates(said.text, request, self._material, lot.source, lot.side) is not None

    def _requests(self, lot: Lot, teacher: str) -> list[asking.Request]:
        """Return the next requests about a lot, enough for what it owes if every row of them were kept."""
        count = min(REQUESTS_A_ROUND, -(-lot.owed // asking.QUESTIONS_A_REQUEST))
        avoid = [row.prompt[-1].content for row in lot.kept]
        found = [
            asking.request(
                self._material, lot.source, lot.side, lot.num_asked + number,
                teacher=teacher, avoid=avoid, count=asking.QUESTIONS_A_REQUEST,
            )
            for number in range(count)
        ]  # fmt: skip
        lot.num_asked += count
        return found

    def _judge(self, lot: Lot, request: asking.Request, said: Said) -> None:
        rows = asking.candidates(said.text, request, self._material, lot.source, lot.side)
        if rows is None:
            self.made += 1
            self.dropped[Reason.UNREADABLE] += 1
            return
        lot.waiting = itertools.chain(lot.waiting, rows)
        self._take(lot)

    def _take(self, lot: Lot) -> None:
        """Judge what waits until the lot has what it owes."""
        while lot.owed:
            candidate = next(lot.waiting, None)
            if candidate is None:
                return
            self.made += 1
            reason = self._gate.judge(candidate)
            if reason is not None:
                self.dropped[reason] += 1
                continue
            lot.kept.append(self._row(candidate))
            self.kept += 1
            self._progress(self.kept, self._order.num_rows, f"{self.made} made")

    def _row(self, candidate: Candidate) -> Conversation:
        source = candidate.source
        keys = source.keys or ((candidate.quote,) if candidate.quote else ())
        held = candidate.side is Side.EVAL and self._order.hold is Hold.WORDINGS
        group = f"{source.group}/held-out" if held else source.group
        return self._material.row(source, candidate.question, candidate.values, keys, group)

    def _open(self) -> list[Lot]:
        return [lot for lot in self.lots if lot.owed]

    def _raise_quotas(self) -> None:
        """Let lots that still bring new rows make up for those that do not, each on its own side."""
        for side in Side:
            own = [lot for lot in self.lots if lot.side is side]
            able = [lot for lot in own if not lot.exhausted]
            wanted = round(self._order.num_rows * self._order.eval_share)
            wanted = wanted if side is Side.EVAL else self._order.num_rows - wanted
            short = wanted - sum(len(lot.kept) for lot in own)
            if able and short > 0 and not any(lot.owed for lot in able):
                for lot, more in zip(able, _even(short, len(able)), strict=True):
                    lot.quota = len(lot.kept) + more

    def _tell(self, budget: Budget) -> None:
        tokens = f"{budget.tokens_in + budget.tokens_out:,} tokens"
        money = f", {budget.money:.4f} spent" if budget.price_in or budget.price_out else ""
        self._progress(self.kept, self._order.num_rows, f"{self.made} made, {tokens}{money}")

    def _grown(self) -> Grown:
        kept = {side: [row for lot in self.lots if lot.side is side for row in lot.kept] for side in Side}
        groups = [[row.prompt[-1].content for row in lot.kept] for lot in self.lots]
        return Grown(
            kept[Side.TRAIN], kept[Side.EVAL], self.made, self.dropped, self.failed, self.stopped,
            distinct_2(list(itertools.chain(*groups))), distance_within(groups), self.reused,
            time.monotonic() - self._started,
        )  # fmt: skip


class _Asker:
    """Puts requests to a teacher, several at once, within a budget; keeps every answer in the journal."""

    def __init__(
        self, teacher: Teacher, journal: Journal, budget: Budget, manner: Manner, on_answer: Callable[[], None]
    ) -> None:
        self._teacher, self._journal, self._budget, self._manner = teacher, journal, budget, manner
        self._on_answer = on_answer
        self.failed = self.reused = self._failed_in_a_row = 0
        self.stopped = ""
        self._answered = False

    def ask_all(
        self, requests: Sequence[asking.Request], *, readable: Callable[[int, Said], bool]
    ) -> list[Said | None]:
        """Return the answers in order; None where there is none. Sets `stopped` when the budget is used up.

        Of an earlier run only what is `readable` counts: the rest is paid for, and asked once more.
        """
        answers: dict[int, Said] = {}
        left = []
        for place, request in enumerate(requests):
            if (known := self._journal.get(request.key)) is not None:
                self._budget.spend(known)
            if known is not None and readable(place, known):
                answers[place] = known
                self.reused += 1
            else:
                left.append((place, request))
        with ThreadPoolExecutor(max_workers=self._teacher.parallel) as pool:
            try:
                self._work(pool, left, answers)
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):
                    self._teacher.close()  # what is under way would hold up Ctrl-C
                raise
        return [answers.get(place) for place in range(len(requests))]

    def _work(
        self, pool: ThreadPoolExecutor, left: Sequence[tuple[int, asking.Request]], answers: dict[int, Said]
    ) -> None:
        """Keep as many requests under way as the teacher takes; no more are begun once the budget is used up."""
        queue = list(reversed(left))
        running: dict[Future[Said], tuple[int, asking.Request]] = {}
        while queue or running:
            while queue and len(running) < self._teacher.parallel and not self.stopped:
                place, request = queue[-1]
                if not self._budget.reserve(most_tokens_in(request), self._manner.max_tokens):
                    if not running:
                        self.stopped = "budget"
                    break
                queue.pop()
                running[pool.submit(self._one, request)] = (place, request)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, request = running.pop(future)
                self._budget.release(most_tokens_in(request), self._manner.max_tokens)
                self._settle(future, place, answers)

    def _one(self, request: asking.Request) -> Said:
        said = self._teacher.ask(request)
        # In the thread that asked: when it is known to anybody, it is on the disk.
        self._journal.add(request.key, said)
        return said

    def _settle(self, future: Future[Said], place: int, answers: dict[int, Said]) -> None:
        try:
            said = future.result()
        except TeacherError as error:
            self.failed += 1
            self._failed_in_a_row += 1
            # One request that is refused among others that are answered is that request's fault.
            useless = error.code == "teacher.unreachable" or (error.code == "teacher.refused" and not self._answered)
            if useless or self._failed_in_a_row >= FAILED_IN_A_ROW:
                raise
            return
        self._failed_in_a_row = 0
        self._answered = True
        self._budget.spend(said)
        answers[place] = said
        self._on_answer()
