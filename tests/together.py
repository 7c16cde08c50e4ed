"""Trainings by several processes that a launcher starts: `python together.py FOLDER` runs all that the tests compare.

The processes are forked from one that has imported everything and computed nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import sciinf
from sciinf import cli
from sciinf.campaigns.store import Store
from sciinf.core import Estimator, load_simulator, telling
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.networks.summaries.vector import MLP
from sciinf.training import Recipe, launched, loop, train, train_ensemble
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.ratio import Ratio
from sciinf.training.estimators.score import Score
from sciinf.training.learner import Single

SIMULATOR = Path(__file__).parents[1] / "simulators" / "linear_gaussian.py"
RAGGED = 101  # rows a step, which neither two nor three processes share evenly
RECIPE = Recipe(epochs=10, batch=RAGGED, processes=1)
SEEDS = (0, 1, 2, 3)
DRAWN: list[int] = []  # seeds of the noise of each step, of `Running`


class Running(Estimator):
    """Distance of theta from a linear map of x less its running mean; weights that nobody seeded."""

    def __init__(self):
        super().__init__()
        self.prior, self.observables = load_simulator(SIMULATOR).prior, load_simulator(SIMULATOR).observables
        self.map = nn.Linear(5, 3)
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def standardise(self, batches): ...

    def loss(self, batch, *, generator):
        x = batch.x[next(iter(batch.x))]
        if self.training:
            DRAWN.append(generator.initial_seed())
            self.mean.lerp_(x.mean(0), 0.1)
            self.steps += 1
        return (self.map(x - self.mean) - batch.theta).square().sum(-1)

    def condition(self, x): ...

    def features(self, x): ...


def flow(seed=0):
    ball = load_simulator(SIMULATOR)
    return Flow(ball.prior, ball.observables, flow=MAF(2, (16,)), seed=seed).double()


def score(store, out, seed):
    return train(Score(store.prior, store.observables, hidden=32, seed=seed), store, out, recipe=RECIPE, seed=seed)


def ratio(store):
    return Ratio(store.prior, store.observables, summary=MLP(hidden=(16,)), hidden=16, balance=10.0)


def cut(store, out):
    """A training that stops within its seventh epoch."""
    original, left = Single.loss, [7 * (900 // RAGGED) - 3]

    def loss(self, batch, generator):
        left[0] -= self.estimator.training
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, batch, generator)

    Single.loss = loss
    try:
        train(flow(), store, out, recipe=RECIPE, seed=5)
    except KeyboardInterrupt:
        pass
    finally:
        Single.loss = original


def whole(store, out):
    """Every kind of training, into folders in `out`."""
    train(flow(), store, out / "flow", recipe=RECIPE, seed=5)
    train(flow(), store, out / "streamed", recipe=Recipe(epochs=3, batch=RAGGED, memory=0), seed=5)
    post_hoc = Recipe(epochs=4, batch=RAGGED, ema="post-hoc", optimiser="muon", schedule="constant", learning_rate=0.02)
    train(flow(), store, out / "post_hoc", recipe=post_hoc, seed=5)
    train_ensemble([flow(0), flow(1)], store, out / "ensemble", recipe=Recipe(epochs=3, batch=RAGGED), seed=5)
    train(flow(), store, out / "search", recipe=Recipe(epochs=1, batch="auto", learning_rate="auto"), seed=5)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    train(Running(), store, out / "running", recipe=Recipe(epochs=3, batch=100, ema=0), seed=5)


def attempted(call):
    """The words of what a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def again(store, origin, out):
    """Go on with a copy of what another number of processes began."""
    if os.environ.get("RANK", "0") == "0":
        shutil.copytree(origin, out)
    train(flow(), store, out, recipe=RECIPE, seed=5)


def one(store, folder):
    whole(store, folder / "one")
    cut(store, folder / "one" / "cut")
    for seed in SEEDS:
        score(store, folder / "one" / f"score_{seed}", seed)


def two(store, folder):
    whole(store, folder / "two")
    cut(store, folder / "two" / "cut")
    again(store, folder / "one" / "cut", folder / "one_two")
    score(store, folder / "two" / "score_0", 0)
    train(ratio(store), store, folder / "two" / "ratio", recipe=Recipe(epochs=1, batch=100))
    rank, simulator = int(os.environ["RANK"]), load_simulator(SIMULATOR)
    refused = {
        "seeds": attempted(lambda: train(flow(), store, folder / "odd", recipe=RECIPE, seed=rank)),
        "folders": attempted(lambda: train(flow(), store, folder / f"odd_{rank}", recipe=RECIPE)),
        "memory": attempted(lambda: train(flow(), store, folder / "odd", recipe=Recipe(epochs=1, memory=rank))),
        "simulator": attempted(lambda: train(flow(), simulator, folder / "odd", recipe=RECIPE)),
        "follow": attempted(lambda: train(flow(), store, folder / "odd", recipe=RECIPE, follow=True)),
        "few": attempted(lambda: train(flow(), store, folder / "odd", recipe=Recipe(epochs=1, batch=1))),
    }
    (folder / f"drawn_{rank}.json").write_text(json.dumps(DRAWN))
    (folder / f"refused_{rank}.json").write_text(json.dumps(refused))


def three(store, folder):
    train(flow(), store, folder / "three" / "flow", recipe=RECIPE, seed=5)
    again(store, folder / "two" / "cut", folder / "two_three")
    torch.manual_seed(int(os.environ["RANK"]))
    train(Running(), store, folder / "three" / "running", recipe=Recipe(epochs=3, batch=100, ema=0), seed=5)


def alone(store, folder):
    again(store, folder / "two" / "cut", folder / "two_one")


def left(store, folder):
    """Two of three processes wait for one that is gone, or that does not answer."""
    from sciinf.training.parallel import Several

    original, rank = Several.add_up, int(os.environ["RANK"])

    def add_up(self, slopes):
        if rank == 2:
            (folder / "died.txt").write_text(str(time.time()))
            os._exit(9)
        original(self, slopes)

    Several.add_up = add_up
    words = attempted(lambda: train(flow(), store, folder / "left", recipe=RECIPE))
    (folder / f"left_{rank}.json").write_text(json.dumps([words, time.time()]))


def ranks(count, job, store, folder):
    """Run a job in processes as a launcher would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                said = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
                if count > 1:
                    os.environ |= {name: str(value) for name, value in said.items()}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                sys.stderr = (folder / f"{job.__name__}_{rank}.txt").open("w")
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*went astray")
                    job(Store(store), folder)
                launched._leave()
                code = 0
            except BaseException as error:
                telling.tell(f"{type(error).__name__}: {error}", telling.ERROR)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(store, folder):
    torch.set_num_threads(1)
    loop.VALIDATION = 32  # so that there are batches of held-out rows for all
    codes = {job.__name__: ranks(count, job, store, folder) for count, job in JOBS}
    (folder / "codes.json").write_text(json.dumps(codes))


JOBS = ((1, one), (2, two), (3, three), (1, alone), (3, left))


def short(device):
    """What the command trains by in place of its default."""
    return Recipe(epochs=12, batch=RAGGED, device=device)


if __name__ == "__main__" and sys.argv[1] == "sciinf":
    sys.argv = sys.argv[1:]
    sciinf.Recipe = short
    cli.main()
elif __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
