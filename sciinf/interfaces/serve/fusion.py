r"""Many questions at a time: their draws are made together, a few of each in a pass, and nobody waits for long ones.

A pass of the network moves noise of several questions at once, in columns of 256 draws, each with the features of its
own observation. Columns are dealt round robin, four at most to a question in its turn, which take about as long as all
that is to be said of an answer beside its draws. A question of 20,000 draws has 79 columns and one of 200 has one,
which is in the next pass or one soon after. When its draws are complete, a question is answered and leaves; others join
meanwhile. Observations that came together are embedded, and compared with the simulations, in one batch.
An estimator that takes noise out step by step moves its columns all the way in one pass.

Every question draws its noise from a generator of its own, all of it at once, as it does alone. So a fused answer is
the lone one but for rounding, whatever else was asked at the time.

References:
    | Flover: A Temporal Fusion Framework for Efficient Autoregressive Model Parallel Inference (Yao et al., 2023),
      https://arxiv.org/abs/2305.13484
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import final

import torch
from torch import Tensor

from sciinf.core import Observation
from sciinf.core.estimator import PushedDensity
from sciinf.diagnostics.judge import Judge, Looked
from sciinf.interfaces.question import QueryOptions, Question
from sciinf.interfaces.serve.answering import answered, stored_answer
from sciinf.interfaces.serve.models import Model, Models
from sciinf.posteriors.amortised import Amortised, pushed

COLUMN, COLUMNS, TURN = 256, 16, 4  # draws in a column; columns in a pass, and of one question in its turn
_TOGETHER = 64  # observations that are embedded at once
_HELD = 2_000_000  # draws that are being made, above which those that come wait
_SHORT = 0.02  # seconds that questions which came are taken in for, before the next pass


@dataclass(frozen=True)
class Ticket:
    """A question that waits.

    Args:
        id: By which its answer is sent.
        model: The run's name.
        x: The observation.
        wanted: What is asked for.
    """

    id: int
    model: str
    x: Observation
    wanted: QueryOptions


@dataclass
class _Drawing:
    """A question whose draws are being made."""

    ticket: Ticket
    model: Model
    question: Question
    looked: Looked
    density: PushedDensity
    generator: torch.Generator
    noise: Tensor  # (more, 1, D)
    parts: list[Tensor] = field(default_factory=list)
    dealt: int = 0

    @property
    def left(self) -> int:
        """Draws that no pass has been given yet."""
        return len(self.noise) - self.dealt


@final
class Fusion:
    """Answers questions that come at any time.

    Args:
        models: What is served.
        done: Told the id of a question and its answer, as a message.
        failed: Told the id of one that has no answer, and why.
        alone: Told the id of one that cannot be fused: it is answered by itself, elsewhere.
    """

    def __init__(
        self,
        models: Models,
        done: Callable[[int, bytes], None],
        failed: Callable[[int, Exception], None],
        alone: Callable[[int], None],
    ) -> None:
        self._models, self._done, self._failed, self._alone = models, done, failed, alone
        self._arrived: deque[Ticket] = deque()
        self._drawing: deque[_Drawing] = deque()
        self.passes = 0

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._arrived or self._drawing)

    def add(self, ticket: Ticket) -> None:
        """Take a question."""
        self._arrived.append(ticket)

    def drop(self, id: int) -> None:
        """Forget a question for which nobody waits any more."""
        self._arrived = deque(ticket for ticket in self._arrived if ticket.id != id)
        self._drawing = deque(drawing for drawing in self._drawing if drawing.ticket.id != id)

    @torch.no_grad()
    def step(self) -> None:
        """Look at what came, and make one pass."""
        if self._arrived and sum(len(one.noise) for one in self._drawing) < _HELD:
            self._begin()
        if self._drawing:
            self._pass()

    def _begin(self) -> None:
        """Look at observations that came together: all of what one posterior answers in one batch.

        What the run folder has an answer to is answered at once. To read that, or to find out which posterior answers
        where some were refined, takes a while: then a few are looked at.
        """
        groups: dict[int, list[tuple[Ticket, Model, Question]]] = {}
        until = time.monotonic() + _SHORT
        for k in range(min(len(self._arrived), _TOGETHER)):
            if k and time.monotonic() > until:
                break
            ticket = self._arrived.popleft()
            try:
                model = self._models.get(ticket.model)
                asked, question = model.question(ticket.x, ticket.wanted)
                where = asked.folder.relative_to(model.folder).as_posix()
                if (found := stored_answer(model, question, where)) is not None:
                    self._done(ticket.id, found)
                    continue
            except Exception as error:
                self._failed(ticket.id, error)
                continue
            if ticket.wanted.predicted or not isinstance(question.posterior, Amortised):
                self._alone(ticket.id)
                continue
            groups.setdefault(id(question.judge), []).append((ticket, model, question))
        for group in groups.values():
            self._look(group)

    def _look(self, group: Sequence[tuple[Ticket, Model, Question]]) -> None:
        judge = group[0][2].judge
        x = {name: torch.cat([question.x[name] for _, _, question in group]) for name in judge.posterior.observables}
        try:
            density, looked = pushed(judge.posterior, x), judge.look(x)
        except Exception as error:
            for ticket, *_ in group:
                self._failed(ticket.id, error)
            return
        if density is None:
            for ticket, *_ in group:
                self._alone(ticket.id)
            return
        for (ticket, model, question), one, own in zip(group, looked, density.each(), strict=True):
            generator = question.generator()
            noise = own.noise(ticket.wanted.draws, generator=generator)
            self._drawing.append(_Drawing(ticket, model, question, one, own, generator, noise))

    def _pass(self) -> None:
        """Deal columns round robin, all of one posterior; move their noise; answer what is complete."""
        judge, dealt = self._drawing[0].question.judge, []
        others: list[_Drawing] = []
        size = self._length(judge)
        most, turn = COLUMN * COLUMNS // size, COLUMN * TURN // size
        while self._drawing and len(dealt) < most:
            one = self._drawing.popleft()
            if one.question.judge is not judge:
                others.append(one)
                continue
            for _ in range(min(turn, most - len(dealt))):
                dealt.append((one, one.noise[one.dealt : one.dealt + size]))
                one.dealt += len(dealt[-1][1])
                if not one.left:
                    break
            else:
                self._drawing.append(one)
        self._drawing.extendleft(reversed(others))  # what waited is first in the next pass
        try:
            moved = _moved([one.density for one, _ in dealt], [noise for _, noise in dealt])
        except Exception as error:
            for one in {drawing.ticket.id: drawing for drawing, _ in dealt}.values():
                self.drop(one.ticket.id)
                self._failed(one.ticket.id, error)
            return
        self.passes += 1
        for (one, _), theta in zip(dealt, moved, strict=True):
            one.parts.append(theta)
            if sum(map(len, one.parts)) == len(one.noise):
                self._finish(one)

    def _length(self, judge: Judge) -> int:
        """Draws in a column: four times as many where all questions whose turn it is have so many left."""
        same = (one for one in self._drawing if one.question.judge is judge)
        next_ones = list(islice(same, COLUMNS // TURN))
        return COLUMN * TURN if all(one.left >= COLUMN * TURN for one in next_ones) else COLUMN

    def _finish(self, one: _Drawing) -> None:
        try:
            theta = one.density.within(one.ticket.wanted.draws, torch.cat(one.parts), one.noise)
            posterior = one.question.posterior
            if not isinstance(posterior, Amortised):
                raise TypeError(f"{posterior.name} is not answered together with others")
            drawn = posterior.unweighted(theta[:, 0].cpu())
            answer = one.question.completed(one.looked, drawn, one.generator)
            self._done(one.ticket.id, answered(one.model, one.question, answer, "."))
        except Exception as error:
            self._failed(one.ticket.id, error)


def _moved(densities: Sequence[PushedDensity], noise: Sequence[Tensor]) -> list[Tensor]:
    """Noise of several observations, (n, 1, D) each, to draws of each."""
    longest = max(map(len, noise))
    filled = noise[0].new_zeros(longest, len(noise), noise[0].shape[-1])
    for k, one in enumerate(noise):
        filled[: len(one), k] = one[:, 0]
    theta = densities[0].joined(densities[1:]).push(filled)
    return [theta[: len(one), k : k + 1] for k, one in enumerate(noise)]
