r"""Simulate one block: its seeds, its parameters, its batch of simulations, and the treatment of rows that raise.

Whatever was simulated before, block k takes theta from the generator of (seed, k, 0), and noise from that of (seed, k,
1). torch's CPU generator keeps only 32 bits of the seed that it is given. Among 100,000 blocks a few would then share
their noise. So this module sets the whole state of the generator instead. If theta comes from a proposal rather than
the prior, theta is drawn before anything runs and is stored in `proposed/`. So workers and repairs need not know the
proposal.

When the batch raises, its rows are tried again in halves, down to the rows that raise alone. Rows [a, b) then take
their noise from (seed, k, 1, a, b). If the simulator fails by chance given theta, the successful rows are draws of x
given theta and success. The same holds without retries.
"""

from __future__ import annotations

import functools
import hashlib
import io
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinf.campaigns.conditions import conditions
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.folder import Unreachable
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.naming import PROPOSED
from sciinf.campaigns.storage.outcome import failed_outcome, join, normalise, status_of
from sciinf.campaigns.store import Store
from sciinf.core.observable import Outcome, Status, X
from sciinf.core.proposal import Proposal
from sciinf.core.simulator import Simulator

_THETA, _NOISE = 0, 1
_SHA256 = 32
_WORDS = 624
_FIRST, _TIMES = 0x8B51F9DD, 0x58F38DED  # Constants of `SeedSequence.generate_state`.
_HEAD = 24  # Bytes of the state before its words: seed (8), left (4), seeded (4), next (8).


def generator_for(seed: int, *key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Random generator for a seed and a key of whole numbers.

    The streams of different (seed, key) are independent, and no stream is drawn from another one.
    """
    words = _generated(np.random.SeedSequence(seed, spawn_key=key))
    generator = torch.Generator(device)
    generator.manual_seed(int(words[0]) | int(words[1]) << 32)
    if generator.device.type != "cpu":
        return generator
    state = generator.get_state().numpy()
    words[2] |= 0x80000000  # So the all-zero state never occurs.
    state[_HEAD : _HEAD + 8 * _WORDS].view(np.uint64)[:] = words[2:]
    generator.set_state(torch.from_numpy(state))
    return generator


def _generated(sequence: np.random.SeedSequence) -> NDArray[np.uint32]:
    """Compute `sequence.generate_state(2 + _WORDS)` for all words at once; numpy does so word by word."""
    added, times = _hashed()
    words = np.tile(sequence.pool, -(-len(added) // len(sequence.pool)))[: len(added)]
    words = (words ^ added) * times
    return words ^ words >> np.uint32(16)


@functools.cache
def _hashed() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Constants with which numpy hashes the words: a constant times the powers of another constant.

    numpy promises to keep these constants.
    """
    powers = np.full(3 + _WORDS, _TIMES, np.uint32)
    powers[0] = _FIRST
    found = np.multiply.accumulate(powers, dtype=np.uint32)
    return found[:-1], found[1:]


def draw_theta(store: Store, index: int) -> Tensor:
    """Parameters of a block, (rows, D), in the prior's dtype, on the CPU.

    Raises:
        ValueError: If the store's parameters come from a proposal, and the parameters of this block are missing or
            damaged.
    """
    if store.proposal is None:
        generator = generator_for(store.seed, index, _THETA)
        return store.prior.sample(store.rows_of(index), generator=generator)
    theta = _proposed(store, index)
    if theta is None:
        raise ValueError(
            f"the parameters of block {index} of {store.folder.name} come from a proposal and "
            f"{store.folder.name}/{_proposed_file(store, index)} is missing or damaged; call simulate(..., "
            "proposal=...) with the proposal they came from"
        )
    return theta


def propose(store: Store, proposal: Proposal, blocks: Sequence[int]) -> None:
    """Draw the parameters of blocks from a proposal and store them for the workers that run these blocks.

    Raises:
        ValueError: If the proposal returns parameters of a wrong shape or outside the prior's support.
        OSError: If the store cannot be written.
    """
    with writing(store.folder.name):
        for inside in sorted({store.naming.folder(PROPOSED, index) for index in blocks}):
            store.folder.prepare(inside)
    for index in blocks:
        if _proposed(store, index) is not None:
            continue
        rows = store.rows_of(index)
        drawn = proposal.sample(rows, generator=generator_for(store.seed, index, _THETA))
        theta = drawn.detach().to("cpu", store.prior.dtype)
        wanted = (rows, len(store.prior))
        if tuple(theta.shape) != wanted or not bool(torch.isfinite(store.prior.log_prob(theta)).all()):
            raise ValueError(
                f"{type(proposal).__name__}.sample({rows}) must return parameters within the support of {store.prior}, "
                f"of shape {wanted}; got shape {tuple(theta.shape)}"
                + ("" if tuple(theta.shape) != wanted else ", and some lie outside")
            )
        image = io.BytesIO()
        np.save(image, theta.numpy())
        array = image.getvalue()
        with writing(store.folder.name):
            store.folder.commit(_proposed_file(store, index), array + hashlib.sha256(array).digest(), lambda _: False)


def _proposed_file(store: Store, index: int) -> str:
    return store.naming.file(PROPOSED, index, "npy")


def _proposed(store: Store, index: int) -> Tensor | None:
    """Parameters that a proposal drew for a block, or None if they are absent, damaged, or of another size.

    The file is an array as numpy writes it, followed by the 32 bytes of its SHA-256.
    """
    name = _proposed_file(store, index)
    file = f"{store.folder.name}/{name}"
    try:
        data = store.folder.read(name)
        whole = hashlib.sha256(data[:-_SHA256]).digest() == data[-_SHA256:]
        image = io.BytesIO(data[:-_SHA256] if whole else data)
        theta = np.load(image)
        if image.read(1):
            raise ValueError("its content does not have the hash at its end")
    except FileNotFoundError:
        return None
    except Unreachable:
        raise
    except (OSError, ValueError, EOFError, MemoryError) as error:
        warnings.warn(f"{file} is damaged ({error}) and passed over", stacklevel=1)
        return None
    if not whole:
        warnings.warn(
            f"{file} carries no hash, like files of older versions: a change of the file cannot be detected",
            stacklevel=1,
        )
    found = torch.from_numpy(theta) if theta.dtype.kind == "f" else None
    good = found is not None and found.dtype == store.prior.dtype
    return found if good and theta.shape == (store.rows_of(index), len(store.prior)) else None


def run_block(simulator: Simulator, store: Store, index: int, *, device: str | torch.device = "cpu") -> Entry:
    """Simulate one block and commit it.

    Raises:
        ValueError, TypeError: If the simulator does not return what its observables promise.
        MemoryError: If the batch does not fit in memory.
        OSError: If the store cannot be written.
    """
    return store.noted(store.write(*simulated(simulator, store, index, device=device)))


def simulated(
    simulator: Simulator, store: Store, index: int, *, device: str | torch.device = "cpu"
) -> tuple[Entry, bytes]:
    """Simulate one block without writing it; return its entry and the bytes of its file, for `Store.write`.

    Raises:
        ValueError: If the simulator does not return what its observables promise.
        MemoryError: If the batch does not fit in memory.
    """
    started = time.perf_counter()
    theta = draw_theta(store, index)
    outcome = Attempt(simulator, theta, store.seed, index, torch.device(device)).outcome()
    seconds = time.perf_counter() - started
    made, same = conditions(simulator, device), simulator.observables == store.observables
    return store.prepared(index, theta, outcome, seconds, made, normalised=same)


def give_up(store: Store, index: int, status: Status, message: str, *, seconds: float = 0.0) -> Entry:
    """Commit a block whose rows all count as failed, because the simulator could not finish the block."""
    theta = draw_theta(store, index)
    outcome = failed_outcome(store.observables, len(theta), status, message)
    return store.commit(index, theta, outcome, seconds=seconds)


@dataclass(frozen=True)
class Attempt:
    """One batch of parameters to be simulated.

    Args:
        simulator: The simulator to run.
        theta: Parameters, (rows, D), on the CPU.
        seed: Seed of the campaign.
        block: Number of the block.
        device: Device on which the simulator runs.
    """

    simulator: Simulator
    theta: Tensor
    seed: int
    block: int
    device: torch.device

    def outcome(self) -> Outcome:
        """Simulate the batch and return the normalised outcome of every row."""
        return self._rows(0, len(self.theta))

    def _rows(self, start: int, stop: int) -> Outcome:
        whole = (start, stop) == (0, len(self.theta))
        key = (self.block, _NOISE) if whole else (self.block, _NOISE, start, stop)
        generator = generator_for(self.seed, *key, device=self.device)
        where = f"block {self.block} of simulator {self.simulator.name!r}"
        # Copy theta, so that a simulator that works in place does not change the stored parameters.
        theta = self.theta[start:stop].to(self.device, copy=True)
        try:
            result = self.simulator(theta, generator=generator)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise MemoryError(
                f"{where}: {stop - start} rows do not fit in memory ({error}); make blocks smaller"
            ) from error
        except (Exception, SystemExit) as error:
            if stop - start == 1:
                message = f"{type(error).__name__}: {error}"
                return failed_outcome(self.simulator.observables, 1, Status.RAISED, message)
            middle = (start + stop) // 2
            return join((self._rows(start, middle), self._rows(middle, stop)))
        try:
            return normalise(result, self.simulator.observables, stop - start, where=where)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{error}; blocks finished before are kept") from error


def simulate_from(simulator: Simulator, theta: Tensor, *, generator: torch.Generator) -> tuple[X, Tensor]:
    """Simulate data from given parameters, (n, D), as a campaign would do it, without storing them.

    Returns:
        The data of the rows that did not fail, name -> (m, *event), and a mask of these rows, bool (n,).
    """
    seed, parts = int(torch.randint(2**62, (1,), generator=generator)), []
    with one_thread():
        for index, rows in enumerate(theta.split(simulator.block)):
            parts.append(Attempt(simulator, rows, seed, index, torch.device("cpu")).outcome())
    outcome = join(parts)
    good = status_of(outcome) == Status.OK
    return {name: outcome.x[name][good] for name in simulator.observables}, good


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit numerical libraries to one thread, as in worker processes.

    So results do not depend on the number of processors. Reductions over several threads round differently. Use more
    workers to employ more processors.
    """
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
