r"""Averages of the weights during training, and averages of any length that are made from a few of them afterwards.

The exponential average of decay b follows w_t as a_t = b' a_{t-1} + (1 - b') w_t, with b' = min(b, (1 + t)/(10 + t)),
so that it forgets the first steps. Its length in steps is fixed beforehand, though the best one depends on the task.

The power-function average of exponent g weights the past by its share of the training so far,

    a_g(t) = int_0^t p_g,t(s) w(s) ds,  p_g,t(s) = (g + 1) s^g / t^(g+1),
    a_g(t) = (1 - 1/t)^(g+1) a_g(t - 1) + (1 - (1 - 1/t)^(g+1)) w_t   step by step.

Its relative width, the standard deviation of p_g,t over t, is

    sigma = sqrt((g + 1) / ((g + 2)^2 (g + 3))),  so that  g^3 + 7 g^2 + (16 - sigma^-2) g + 12 - sigma^-2 = 0.

Averages are linear in the trajectory. With snapshots a_i of profiles p_i = p_{g_i, t_i} (two exponents, of sigma 0.05
and 0.10, at up to 32 times), an average of any profile p is close to sum_i c_i a_i. The weights c make sum_i c_i p_i
the least-squares fit of p among those with sum_i c_i = 1. This condition leaves constant weights unchanged. So

    A c + l 1 = b,  1^T c = 1,

    A_ij = int p_i p_j ds = (g_i + 1)(g_j + 1) / (g_i + g_j + 1) min(t_i, t_j)^(g_i + g_j + 1)
           / (t_i^(g_i + 1) t_j^(g_j + 1)),    b_i = int p_i p ds.

So the length is chosen after the training, by the validation loss.

References:
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024), section 3 and
      appendix C, https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.files import sha256_of, write_bytes

TRACKS = (0.05, 0.10)
LENGTHS = (0.025, 0.05, 0.10, 0.15, 0.20)
SNAPSHOTS = 32


class Average(ABC):
    """Average of the weights, (K, P), that is updated while they are trained."""

    @abstractmethod
    def update(self, weights: Tensor, step: int) -> None:
        """Add the weights after step `step`, counted from 1."""

    @abstractmethod
    def validated(self, weights: Tensor) -> Tensor:
        """Weights whose validation loss counts during training."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """References to the average's tensors (not copies), for a checkpoint."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors that `state` gave."""


class ExponentialAverage(Average):
    """The exponential average, which is itself validated and kept.

    Args:
        weights: Weights at the start, (K, P).
        decay: Decay b, between 0 and 1.
    """

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.decay, self.average = decay, weights.detach().clone()

    def update(self, weights: Tensor, step: int) -> None:
        self.average.lerp_(weights.detach(), 1 - min(self.decay, (1 + step) / (10 + step)))

    def validated(self, weights: Tensor) -> Tensor:
        return self.average

    def state(self) -> dict[str, Tensor]:
        return {"average": self.average}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.average.copy_(state["average"])


class PostHoc(Average):
    """Two power-function averages with snapshots on disk, from which averages of any length are made after training.

    At most 32 snapshots are kept, evenly spaced. When there are more, every second one is dropped and the spacing
    doubles.

    Args:
        weights: Weights at the start, (K, P).
        folder: Folder for the snapshots, made when the first one is written.
        writes: Whether this process writes the snapshots. If not, another process writes them.
    """

    def __init__(self, weights: Tensor, folder: Path, *, writes: bool = True) -> None:
        self.folder, self._writes = folder, writes
        self.tracks = torch.zeros(len(TRACKS), *weights.shape, dtype=weights.dtype, device=weights.device)
        self.steps: list[int] = []
        self._powers = [exponent(sigma) + 1 for sigma in TRACKS]
        self._calls, self._stride = 0, 1

    def update(self, weights: Tensor, step: int) -> None:
        for power, track in zip(self._powers, self.tracks, strict=True):
            track.lerp_(weights.detach(), 1 - (1 - 1 / step) ** power)

    def validated(self, weights: Tensor) -> Tensor:
        return weights

    def keep(self, step: int, *, last: bool) -> None:
        """Write a snapshot if one is due. Must be called after the same steps even if the training was interrupted.

        Args:
            step: Number of steps done.
            last: Whether the training ends here. The last snapshot is always kept.
        """
        self._calls += 1
        if self._calls % self._stride and not last:
            return
        if self._writes:
            self._write(step)
        self.steps.append(step)
        if len(self.steps) > SNAPSHOTS and not last:
            for dropped in self.steps[::2] if self._writes else ():
                self._file(dropped).unlink(missing_ok=True)
            self.steps, self._stride = self.steps[1::2], 2 * self._stride

    def synthesise(self, targets: Sequence[tuple[float, int]]) -> list[Tensor]:
        """Averages of any length, each (K, P).

        Args:
            targets: Pairs of relative width sigma and the step at which the average ends, at most that of the last
                snapshot.

        Raises:
            ValueError: If a snapshot is damaged or gone.
        """
        bases = [(sigma, step) for step in self.steps for sigma in TRACKS]
        weights = coefficients(bases, targets).reshape(len(self.steps), len(TRACKS), len(targets))
        # The sums are taken on the CPU, because not every device has float64.
        sums = [torch.zeros(self.tracks.shape[1:], dtype=torch.float64) for _ in targets]
        for step, rows in zip(self.steps, weights, strict=True):
            tracks = self._read(step).double()
            for track, row in zip(tracks, rows, strict=True):
                for total, weight in zip(sums, row.tolist(), strict=True):
                    total.add_(track, alpha=weight)
        return [total.to(self.tracks.dtype).to(self.tracks.device) for total in sums]

    def state(self) -> dict[str, Tensor]:
        return {"tracks": self.tracks, "snapshots": torch.tensor([self._calls, self._stride, *self.steps])}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.tracks.copy_(state["tracks"])
        self._calls, self._stride, *self.steps = state["snapshots"].tolist()

    def clear(self) -> None:
        """Remove the snapshots, and files that a killed write has left."""
        if self._writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int) -> None:
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        tracks = self.tracks.cpu().contiguous()
        write_bytes(self._file(step), save({"tracks": tracks}, {"sha256": _hash(tracks)}))

    def _file(self, step: int) -> Path:
        return self.folder / f"{step:09}.safetensors"

    def _read(self, step: int) -> Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file(step), "pt") as file:
                known, tracks = (file.metadata() or {}).get("sha256"), file.get_tensor("tracks")
            if known != _hash(tracks):
                raise ValueError("its content does not have the hash written in it")
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(
                f"{self._file(step)}, which an average of the weights is made of, is damaged or gone ({error}); remove "
                f"{self.folder} and {self.folder.parent / 'checkpoint.safetensors'}, and train again"
            ) from error
        return tracks


def _hash(tracks: Tensor) -> str:
    return sha256_of(tracks.numpy().tobytes())


def exponent(width: float) -> float:
    """The exponent g >= 0 of the power-function average with relative width sigma.

    Raises:
        ValueError: If no exponent of at least 0 has this width: it must lie in (0, 1 / sqrt(12)].
    """
    if not 0 < width <= 12**-0.5 + 1e-12:
        raise ValueError(f"sigma={width}: the relative width of an average lies above 0 and at most at {12**-0.5:.3f}")
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return max(0.0, float(roots.real.max()))


def coefficients(
    bases: Sequence[tuple[float, float]], targets: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "base target"]:
    """Weights c of the snapshots whose sum is closest to each target average.

    Args:
        bases: Relative width and step of each snapshot.
        targets: Relative width and step of each average wanted.
    """
    count = len(bases)
    system = np.ones((count + 1, count + 1))
    system[:count, :count], system[count, count] = overlaps(bases, bases), 0.0
    right = np.ones((count + 1, len(targets)))
    right[:count] = overlaps(bases, targets)
    scale = system[0, 0] or 1.0
    system[:count, :count], right[:count] = system[:count, :count] / scale, right[:count] / scale
    return np.linalg.lstsq(system, right, rcond=None)[0][:count]


def overlaps(
    ones: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> Float[np.ndarray, "one other"]:
    """Inner products int p_i p_j ds of the profiles of (sigma, t), in units of 1 over the latest t."""
    latest = max(t for _, t in (*ones, *others))
    g, t = (np.array(v)[:, None] for v in zip(*((exponent(s), t / latest) for s, t in ones), strict=True))
    h, u = (np.array(v)[None] for v in zip(*((exponent(s), t / latest) for s, t in others), strict=True))
    low, both = np.minimum(t, u), g + h + 1
    return (g + 1) * (h + 1) / both * (low / t) ** g * (low / u) ** h * low / (t * u)
