r"""A reader that turns captions into intervals of parameters, and draws parameters within these intervals.

A caption that follows the grammar is read by the grammar, exactly. Any other caption of known words is read
by a small network, which estimates the intervals from the words.

Each token has an embedding. A token of a number also has the scores of the number's interval for each
parameter (`writing`). Convolutions combine each token with words on either side. Then each parameter p has
weights a over tokens,

    h_p = sum_t a_pt hidden_t,   n_p = sum_t a_pt number_pt,   said_p = g(h_p) n_p + (1 - g(h_p)) m(h_p).

A number is thus passed on unchanged, once the network knows the parameter that the number belongs to. m gives
the intervals of levels and of parameters without a clause. `said` has two scores for each parameter, for the
lower and upper ends.

**The network learns from captions alone, before training on solutions.** Captions are written for parameters
drawn from the prior, as many as needed and without simulations, whose number would be far too small for this
task. Some unimportant words are left out or replaced, so that the network does not depend on them. During
training on solutions the weights are fixed. The error on fresh captions is stored (`off`), and training
reports this error.

References:
    | Neural Machine Translation by Jointly Learning to Align and Translate (Bahdanau et al., 2015), for weights over
      words, https://arxiv.org/abs/1409.0473
    | Pointer Networks (Vinyals et al., 2015), for handing on what was read, https://arxiv.org/abs/1506.03134
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Prior
from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.conditions import InPlaceOfParameters, ParameterReader
from sciinf.lab._wording import SPELT, TEMPLATES, Interval, Unphrased, numbers, pieces
from sciinf.lab.captions import Captions, Grammar, told
from sciinf.lab.writing import MOST, Writer, Written, squeezed

_WIDTH, _REACH = 48, (1, 2, 4)  # Width of the hidden layers, and dilations of the convolutions.
_RATE, _BATCH, _FRESH = 4e-3, 96, 2_000
_BLURRED = 0.3  # Largest probability that an unimportant word is left out, replaced, or inserted.
_OPEN = 0.2  # An end of an interval within this distance of the largest score counts as open.
_MISREAD = 0.2  # Largest acceptable rms error, in scores. For comparison, a level is 0.5 to 2.2 wide.


class Words(InPlaceOfParameters):
    """A condition of generators that accepts captions in place of parameters.

    Draws are at parameters from the prior within a caption's intervals. Training uses the parameters alone.
    In use, captions are given under the name "words", as tokens (`Generator.said`).

    Args:
        grammar: Grammar of the captions, by default `Grammar()`.
        steps: Number of steps in which a network learns to read captions that do not follow the grammar
            (`reader`).

    Raises:
        ValueError: If steps is no int of at least 1.
    """

    def __init__(self, grammar: Grammar | None = None, *, steps: int = 1_000) -> None:
        check_whole("steps", steps, 1)
        self.grammar, self.steps = grammar or Grammar(), steps

    def reader(self, prior: Prior, *, seed: int) -> Reader:
        return Reader(self.grammar, prior, self.steps, seed=seed)


class Reader(ParameterReader):
    """A reader of captions about the parameters of a prior.

    Args:
        grammar: Grammar of the captions.
        prior: Prior of the simulator.
        steps: Number of training steps of the network.
        seed: Seed of the network's initial weights, and of the captions that it learns from.

    Attributes:
        off: Rms error on fresh captions, in scores; NaN before the network has learned.
        grammar: Digest of the meaning of tokens. Weights with another digest are refused.
    """

    off: Tensor
    idle: Tensor
    grammar: Tensor

    def __init__(self, grammar: Grammar, prior: Prior, steps: int, *, seed: int) -> None:
        super().__init__()
        self.captions: Captions = grammar.build(prior)
        self.writer, self.steps, self.seed, count = Writer(self.captions), steps, seed, len(prior)
        with global_seed(torch.Generator().manual_seed(seed)):
            self.embedding = nn.Embedding(len(self.captions.vocabulary), _WIDTH)
            self.number = nn.Linear(2 * count + 1, _WIDTH)
            self.around = nn.ModuleList(nn.Conv1d(_WIDTH, _WIDTH, 3, padding=k, dilation=k) for k in _REACH)
            self.whose = nn.Linear(_WIDTH, count)
            self.meant = nn.Sequential(nn.Linear(_WIDTH + count + 3, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, 3))
        idle = {one for text in TEMPLATES for one in pieces(text) if one[0] not in "{(,"}
        told = torch.tensor([self.captions.ids(one)[0] for one in sorted(idle)])
        self.register_buffer("idle", told, persistent=False)
        self.register_buffer("off", torch.tensor(float("nan")))
        meant = repr((self.captions.vocabulary, self.captions.names, self.captions.patterns)).encode()
        self.register_buffer("grammar", torch.tensor(list(hashlib.sha256(meant).digest()[:8]), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_check_grammar)
        self.requires_grad_(False)

    def forward(self, ids: Int[Tensor, "batch token"], most: int | None = None) -> Float[Tensor, "batch theta 2"]:
        """The scores of the lower and upper ends of each parameter's interval, estimated by the network.

        Args:
            ids: Tokens of captions.
            most: Number of tokens after which captions are cut, a number counted as one. Not cut by default.
        """
        low, high, spelt = numbers(ids)
        inside = F.pad(spelt, (1, 0))[:, :-1] & spelt  # All tokens of a number except its first.
        ids, low, high, spelt = (part[:, :most] for part in squeezed(ids * ~inside, low, high, spelt))
        count = len(self.captions.prior)
        ends = torch.stack([self.writer.score(end[..., None].expand(*ids.shape, count)) for end in (low, high)], -1)
        ends = torch.where(spelt[..., None, None], ends, 0.0).float()  # (batch, token, theta, 2)
        marked = torch.cat([ends.flatten(2), spelt[..., None].float()], -1)
        real = (ids > 0)[..., None]
        hidden = (self.embedding(ids) + self.number(marked)) * real
        for layer in self.around:
            seen = F.layer_norm(hidden, hidden.shape[-1:]) * real
            hidden = hidden + F.gelu(layer(seen.mT).mT) * real
        share = self.whose(hidden).masked_fill(~real, -1e9).softmax(1)  # (batch, token, theta)
        looked = torch.einsum("btp,bth->bph", share, hidden)
        found = torch.einsum("btp,btpe->bpe", share, ends)
        known = torch.einsum("btp,bt->bp", share, spelt.float())[..., None]
        own = torch.eye(count, device=ids.device).expand(len(ids), -1, -1)
        said, gate = self.meant(torch.cat([looked, own, found, known], -1)).split([2, 1], -1)
        gate = gate.sigmoid()
        return gate * found + (1 - gate) * MOST * said

    def drawn(self, ids: object, at: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """Parameters from the prior within the intervals of captions, as a function of uniform numbers.

        Args:
            ids: Tokens of captions, ints (batch, token).
            at: Uniform numbers from 0 to 1, in double precision.

        Raises:
            ValueError: If captions are no tokens of the vocabulary, their number is not that of the rows, or
                the intervals of a caption are too improbable.
        """
        ids = self._checked(ids)
        if len(ids) != len(at):
            raise ValueError(f"{len(ids)} captions are given for {len(at)} rows: one is needed for each")
        kinds, of = ids.unique(dim=0, return_inverse=True)
        found = torch.empty(at.shape, dtype=self.captions.prior.dtype)
        for k, said in enumerate(self.heard(kinds)):
            rows = (of == k).cpu()
            found[rows] = self.captions.within(said, at[rows])
        return found.to(ids.device)

    def _checked(self, ids: object) -> Int[Tensor, "batch token"]:
        """The tokens on the device of the reader, if they are valid tokens of its vocabulary.

        Raises:
            ValueError: If they are not.
        """
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            what = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else repr(ids)
            raise ValueError(
                "captions must be tokens, ints (batch, token), such as the result of generator.said([...]); "
                f"these are {what}"
            )
        if not bool(((ids >= 0) & (ids < len(self.captions.vocabulary))).all()) or not bool((ids > 0).any(1).all()):
            raise ValueError(
                f"captions are tokens from 1 to {len(self.captions.vocabulary) - 1}, then zeros; these are "
                "of another grammar, or say nothing: use what this generator's said([...]) gives"
            )
        return ids.to(self.idle)

    def learn(self) -> None:
        """Train the network on captions of parameters drawn from the prior, and measure its error."""
        draw = torch.Generator().manual_seed(self.seed)
        self.requires_grad_(True)
        with torch.enable_grad():
            chosen = torch.optim.AdamW(self.parameters(), lr=_RATE, weight_decay=1e-3)
            pace = torch.optim.lr_scheduler.OneCycleLR(chosen, _RATE, total_steps=self.steps, pct_start=0.1)
            for _ in range(self.steps):
                said = self._some(_BATCH, draw)
                loss = (self(self._blurred(said, draw), self.writer.folded + 4) - _sides(said)).square().mean()
                chosen.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                chosen.step()
                pace.step()
        self.requires_grad_(False)
        said = self._some(_FRESH, draw)
        with torch.no_grad():
            self.off.copy_((self(said.ids, self.writer.folded) - _sides(said)).square().mean().sqrt())

    def _some(self, count: int, generator: torch.Generator) -> Written:
        theta = self.captions.prior.sample(count, generator=generator).to(self.off.device)
        return self.writer.anew(theta, generator=generator)

    def _blurred(self, said: Written, generator: torch.Generator) -> Tensor:
        """Tokens of captions in which unimportant words are inserted, left out or replaced at random."""
        size, dull = said.ids.shape, (said.ids > len(SPELT)).to("cpu")
        share = _BLURRED * torch.rand(len(said.ids), 1, generator=generator)
        lost, taken, put = (torch.rand(size, generator=generator) < share for _ in range(3))
        other, more = (self.idle.cpu()[torch.randint(len(self.idle), size, generator=generator)] for _ in range(2))
        filling, device = said.filling.cpu(), said.ids.device
        found = torch.where(filling & taken, other, said.ids.cpu())
        found = torch.where(filling & lost, 0, found)
        return squeezed(torch.stack([found, torch.where(dull & put, more, 0)], -1).flatten(1))[0].to(device)

    def say_how_it_reads(self) -> dict[str, float]:
        """The rms error on fresh captions, in scores, under the name "words_misread".

        Warns:
            UserWarning: If the error is too large.
        """
        off = float(self.off)
        if not off <= _MISREAD:
            told = (
                "has learned nothing yet" if math.isnan(off) else f"is {off:.2f} scores off, where a level is 0.5 wide"
            )
            warnings.warn(
                "captions that do not follow the grammar are misread: on fresh ones the reader "
                f"{told}. Give Words more steps, or a simpler grammar",
                stacklevel=4,
            )
        return {"words_misread": off}

    def said(self, texts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """The tokens of captions, which are checked first.

        Raises:
            ValueError: If a word is unknown, or a caption contradicts itself or is impossible by the prior.

        Warns:
            UserWarning: If a caption does not follow the grammar, so that the network reads it. The warning
                gives the intervals that the network reads.
        """
        ids = self.captions.encode(texts).to(self.off.device)
        for text, row in zip(texts, ids, strict=True):
            try:
                self.captions.check_possible(text, self.captions.read(text))
            except Unphrased as error:
                warnings.warn(f"{error}; it is understood as {told(self._understood(row[None]))}", stacklevel=3)
        return ids

    def heard(self, ids: Int[Tensor, "batch token"]) -> list[dict[str, Interval]]:
        """The intervals of each caption, read by the grammar if possible, and by the network otherwise.

        Returns:
            For each caption, a mapping from parameters to the lower and upper ends of their intervals.
            Parameters without an interval are left out.

        Raises:
            ValueError: If captions are no tokens of the vocabulary, or a caption contradicts itself.
        """
        ids = self._checked(ids)
        found = list[dict[str, Interval]]()
        for row, text in zip(ids, self.captions.text(ids), strict=True):
            try:
                found.append(self.captions.read(text))
            except Unphrased:
                found.append(self._understood(row[None]))
        return found

    def within(self, said: Mapping[str, Interval], at: Float[Tensor, "draw theta"]) -> Float[Tensor, "draw theta"]:
        return self.captions.within(said, at)

    @torch.no_grad()
    def _understood(self, ids: Int[Tensor, "1 token"]) -> dict[str, Interval]:
        """The intervals of one caption, read by the network. An end close to the largest score is open."""
        scores = self(ids)[0].clamp(-MOST, MOST).sort(-1).values
        low, high = (self.writer.value(end).tolist() for end in scores.unbind(-1))
        open_low, open_high = (scores[:, 0] < _OPEN - MOST).tolist(), (scores[:, 1] > MOST - _OPEN).tolist()
        row = {
            name: (-math.inf if open_low[k] else low[k], math.inf if open_high[k] else high[k])
            for k, name in enumerate(self.captions.prior.names)
        }
        return {name: ends for name, ends in row.items() if ends != (-math.inf, math.inf)}


def _check_grammar(reader: Reader, weights: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    """Check that weights were learned for the same captions, before they are loaded.

    Raises:
        ValueError: If the digest of their captions differs from the reader's.
    """
    kept = weights.get(f"{prefix}grammar")
    if kept is None or not torch.equal(kept.to(reader.grammar), reader.grammar):
        raise ValueError(
            "this generator learned from captions of another version of sciinf, in which tokens have another "
            "meaning. Train it again"
        )


def _sides(said: Written) -> Float[Tensor, "batch theta 2"]:
    return torch.stack([said.low, said.high], -1)
