r"""Autoregressive flow whose networks are causal transformers (TarFlow), with splines beside its affine maps.

Each of K blocks takes the dimensions in an order, the reverse of the block's before, and maps each of them by a
monotone function whose parameters a causal transformer reads from the dimensions before it and the context c:

    u_d = (z_d - mu_d(z_<d, c)) exp(-alpha_d(z_<d, c)),    e_d = S(u_d; s_d(z_<d, c)).

S is a rational-quadratic spline on [-5, 5] and the identity outside; the paper has no S (`bins=0`). Affine maps alone
are poor in few dimensions: each keeps p(z_d | z_<d) one-humped, so many blocks must share what one spline does. alpha
is kept within (-7, 7). A triangular Jacobian makes log |det de/dz| = sum_d (log S'(u_d) - alpha_d).

Tokens. One token stands for a group of g dimensions (one by default). Token t carries the values of group t - 1, its
own position and the embedded context; token 0 carries the last two only, so even the first dimension is conditioned.
Attention is causal among tokens, and token t's output gives the parameters of group t: encoding takes one pass.
Decoding goes group by group, the keys and values of the tokens so far being kept in local variables, so that one
network can serve several callers at once.

Noise. With `noise` = sigma > 0 every z in training becomes z + sigma eps, eps ~ N(0, I), drawn from `generator`: what
is learned is p_sigma = p * N(0, sigma^2 I), smooth where p is a ridge or a sheet, and wider than p. `push` then draws
from p_sigma and `log_prob` is its log density, so draws and density always belong together; both are of z + sigma eps.
With `denoise` = k > 0 draws are moved along the score, which is at hand by differentiating the flow,

    z' = z + k sigma^2 grad log p_sigma(z).

k = 1 is Tweedie's formula, E[z without noise | z with noise], as in the paper: the best guess of each z, too narrow a
set of them. For Gaussian p of sd s, with r = sigma^2 / s^2, draws have the variance s^2 (1 + r) without denoising,
s^2 / (1 + r) at k = 1, and s^2 (1 + r^2 / (4 (1 + r))) at k = 1/2, which is one step of the probability-flow equation
dz / d sigma^2 = -1/2 grad log p_sigma. So for posteriors 1/2 is the better choice. The density of z' needs the Hessian
of log p_sigma at the z it came from: with k > 0 `log_prob` raises `DensityUnavailable`. By default sigma = 0, and all
is exact.

Shapes: z, e (n, batch, D); c (batch, C); tokens (n, batch, T, width).

References:
    | Normalizing Flows are Capable Generative Models (Zhai et al., 2024), https://arxiv.org/abs/2412.06329
    | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
    | Tweedie's Formula and Selection Bias (Efron, 2011), https://doi.org/10.1198/jasa.2011.tm11181
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from zuko.transforms import MonotonicRQSTransform

from sciinf.core.estimator import DensityUnavailable
from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    Logs,
    Points,
    Row,
    RowContext,
    log_normal,
)

BOUND = 5.0  # splines bend [-BOUND, BOUND]
LOG_SCALE = 7.0  # |alpha| stays below
CHUNK = 32_768  # tokens passed through a block at once when nothing is differentiated

Past = tuple[Tensor, Tensor]  # keys and values of the tokens so far, (n, batch, heads, T, width / heads) each


class TransformerAutoregressive(Architecture):
    """Blocks of causal attention over the dimensions; drawing costs D passes per block.

    Args:
        blocks: How many autoregressive transforms are chained.
        layers: Attention layers of each.
        width: Numbers per token; a multiple of `heads`.
        heads: Attention heads.
        bins: Pieces of each spline; 0 for the paper's affine maps.
        group: Dimensions per token. More than one saves passes where there are many dimensions; those in one group
            depend on each other only through the others.
        noise: sigma, the sd of the noise added in training, in units of the standardised z.
        denoise: k, the share of Tweedie's step that draws take: 0 keeps `log_prob`, 1/2 keeps the spread, 1 is the
            paper's.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        blocks: int = 3,
        layers: int = 1,
        width: int = 64,
        heads: int = 4,
        bins: int = 8,
        group: int = 1,
        noise: float = 0.0,
        denoise: float = 0.0,
    ) -> None:
        sizes = {"blocks": blocks, "layers": layers, "width": width, "heads": heads, "group": group}
        wrong = {name: size for name, size in sizes.items() if size < 1}
        if wrong or width % heads or bins == 1 or not 0 <= bins <= 500:
            raise ValueError(
                "TransformerAutoregressive needs blocks, layers, width, heads and group >= 1, width a multiple of "
                f"heads, and bins either 0 or from 2 to 500; got {sizes | {'bins': bins}}"
            )
        if not 0 <= noise < math.inf or not 0 <= denoise <= 1 or (denoise > 0 and noise == 0):
            raise ValueError(
                "TransformerAutoregressive needs a finite noise >= 0, and 0 <= denoise <= 1, above 0 only with noise "
                f"to remove; got noise={noise}, denoise={denoise}"
            )
        self.blocks, self.layers, self.width, self.heads = blocks, layers, width, heads
        self.bins, self.group, self.noise, self.denoise = bins, group, noise, denoise

    def build(self, dim: int, context: int) -> ConditionalFlow:
        if 1 < dim <= self.group:
            raise ValueError(
                f"group={self.group} puts all {dim} dimensions into one token, which leaves them independent; "
                f"choose a group below {dim}"
            )
        return _TransformerAutoregressive(self, dim, context)


class _TransformerAutoregressive(ConditionalFlow):
    def __init__(self, plan: TransformerAutoregressive, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.noise, self.denoise = plan.noise, plan.denoise
        self.embed = nn.Sequential(nn.Linear(context, plan.width), nn.GELU(), nn.Linear(plan.width, plan.width))
        self.blocks = nn.ModuleList(_Block(plan, dim) for _ in range(plan.blocks))

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        """Noise and log determinant; of z + sigma eps where the flow was trained with noise.

        Raises:
            DensityUnavailable: If draws are denoised.
        """
        if self.denoise > 0:
            raise DensityUnavailable(
                f"draws are denoised (denoise={self.denoise}), which leaves them without a tractable log density; "
                "build TransformerAutoregressive with denoise=0 to have one"
            )
        features = self.embed(context)
        parts = [self._to_noise(part, features) for part in self._chunks(z)]
        return torch.cat([e for e, _ in parts]), torch.cat([log_det for _, log_det in parts])

    def decode(self, noise: Points, context: Context) -> Points:
        """Draws, denoised where that was asked for."""
        features = self.embed(context)
        parts = [self._from_noise(part, features) for part in self._chunks(noise)]
        return torch.cat(parts)

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log p_sigma(z + sigma eps | c) per row."""
        self._check("z", z, context)
        if self.noise > 0:
            drawn = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype)
            z = z + self.noise * drawn.to(z.device)
        return -self._log_density(z[None], self.embed(context))[0]

    def _to_noise(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        log_det = z.new_zeros(z.shape[:-1])
        for block in self._transforms():
            z, change = block.encode(z, features)
            z, log_det = z.flip(-1), log_det + change
        return z, log_det

    def _from_noise(self, noise: Tensor, features: Tensor) -> Tensor:
        z = noise
        for block in reversed(self._transforms()):
            z = block.decode(z.flip(-1), features)
        if self.denoise == 0:
            return z
        return z + self.denoise * self.noise**2 * self._score(z, features)

    def _transforms(self) -> list[_Block]:
        return [cast(_Block, block) for block in self.blocks]

    def _log_density(self, z: Tensor, features: Tensor) -> Tensor:
        noise, log_det = self._to_noise(z, features)
        return log_normal(noise) + log_det

    def _score(self, z: Tensor, features: Tensor) -> Tensor:
        """grad log p_sigma(z | c), differentiable itself where gradients are on."""
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_()
            (score,) = torch.autograd.grad(self._log_density(at, features).sum(), at, create_graph=outer)
        return score

    def _chunks(self, value: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            return (value,)
        return value.split(max(1, CHUNK // (value.shape[1] * self.dim)))


class _Block(nn.Module):
    """One autoregressive transform, in the order the dimensions come in."""

    mask: Tensor

    def __init__(self, plan: TransformerAutoregressive, dim: int) -> None:
        super().__init__()
        self.dim, self.group, self.bins = dim, plan.group, plan.bins
        self.tokens = -(-dim // plan.group)
        self.position = nn.Parameter(0.1 * torch.randn(self.tokens, plan.width))
        self.context = nn.Linear(plan.width, plan.width)
        self.value = nn.Linear(plan.group, plan.width) if self.tokens > 1 else None
        self.layers = nn.ModuleList(_Layer(plan.width, plan.heads) for _ in range(plan.layers))
        self.norm = nn.LayerNorm(plan.width)
        self.head = nn.Linear(plan.width, plan.group * (2 + max(0, 3 * plan.bins - 1)))
        nn.init.zeros_(self.head.weight)  # the transform begins as the identity
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mask", torch.ones(self.tokens, self.tokens, dtype=torch.bool).tril(), persistent=False)

    def encode(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        e, log_slope = _bend(z, self.describe(z, features), self.bins)
        return e, log_slope.sum(-1)

    def describe(self, z: Tensor, features: Tensor) -> Tensor:
        """Parameters of every dimension's map, (n, batch, D, P); those of d depend on z_<d alone."""
        tokens = self._first_tokens(features)
        if self.value is not None:
            before = z[..., : (self.tokens - 1) * self.group].unflatten(-1, (self.tokens - 1, self.group))
            tokens = tokens + F.pad(self.value(before), (0, 0, 1, 0))
        for layer in self.layers:
            tokens, _ = layer(tokens, self.mask, None)
        return self._read(tokens)[..., : self.dim, :].to(z.dtype)

    def decode(self, e: Tensor, features: Tensor) -> Tensor:
        """z with encode(z) = e, a group after the other."""
        tokens = self._first_tokens(features)
        found: list[Tensor] = []
        past: list[Past | None] = [None] * len(self.layers)
        for step, wanted in enumerate(e.split(self.group, dim=-1)):
            token = tokens[..., step : step + 1, :]
            if step > 0 and self.value is not None:
                token = token + self.value(found[-1])[..., None, :]
            for depth, layer in enumerate(self.layers):
                token, past[depth] = layer(token, None, past[depth])
            raw = self._read(token)[..., : wanted.shape[-1], :].to(e.dtype)
            found.append(_straighten(wanted, raw, self.bins))
        return torch.cat(found, dim=-1)

    def _first_tokens(self, features: Tensor) -> Tensor:
        """What tokens carry besides values, (1, batch, T, width)."""
        return (self.context(features)[:, None] + self.position)[None]

    def _read(self, tokens: Tensor) -> Tensor:
        """Tokens (n, batch, T, width) to parameters (n, batch, T g, P)."""
        return self.head(self.norm(tokens)).unflatten(-1, (self.group, -1)).flatten(-3, -2)


class _Layer(nn.Module):
    """Attention, then a network per token, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor | None, past: Past | None) -> tuple[Tensor, Past]:
        """New tokens, and keys and values of these and the past ones; token i attends to j where mask[i, j]."""
        parts = self.project(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(-3, -2) for part in parts.unbind(-3))
        if past is not None:  # the first token may be one for all n
            key = torch.cat([past[0].expand(len(key), *past[0].shape[1:]), key], dim=-2)
            value = torch.cat([past[1].expand(len(value), *past[1].shape[1:]), value], dim=-2)
        score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if mask is not None:
            score = score.masked_fill(~mask, -math.inf)
        attended = (score.softmax(-1) @ value).transpose(-3, -2).flatten(-2)
        tokens = tokens + self.merge(attended)
        return tokens + self.network(self.before_network(tokens)), (key, value)


def _bend(z: Tensor, raw: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """e and log de/dz, for z (*, D) and parameters (*, D, P)."""
    alpha = _log_scale(raw)
    e, log_slope = (z - raw[..., 0]) * torch.exp(-alpha), -alpha.expand_as(z)
    if bins > 0:
        e, change = _spline(raw, bins).call_and_ladj(e)
        log_slope = log_slope + change
    return e, log_slope


def _straighten(e: Tensor, raw: Tensor, bins: int) -> Tensor:
    """z with `_bend`(z) = e."""
    u = cast(Tensor, _spline(raw, bins).inv(e)) if bins > 0 else e
    return u * torch.exp(_log_scale(raw)) + raw[..., 0]


def _log_scale(raw: Tensor) -> Tensor:
    return LOG_SCALE * torch.tanh(raw[..., 1] / LOG_SCALE)


def _spline(raw: Tensor, bins: int) -> MonotonicRQSTransform:
    return MonotonicRQSTransform(*raw[..., 2:].split((bins, bins, bins - 1), dim=-1), bound=BOUND)
