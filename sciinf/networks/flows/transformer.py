r"""Autoregressive flow whose networks are causal transformers (TarFlow), with affine maps and splines.

Each of K blocks takes the dimensions in the reverse order of the block before. A monotone function maps each dimension.
A causal transformer computes its parameters from the earlier dimensions and the context c:

    u_d = (z_d - mu_d(z_<d, c)) exp(-alpha_d(z_<d, c)),    e_d = S(u_d; s_d(z_<d, c)).

S is a rational-quadratic spline on [-5, 5] and the identity outside. The paper has no S (`bins=0`). Affine maps alone
work badly in few dimensions. Each affine map leaves p(z_d | z_<d) unimodal, so many blocks are needed for the effect of
one spline. alpha is limited to (-7, 7). The Jacobian is triangular, so log |det de/dz| = sum_d (log S'(u_d) - alpha_d).

Tokens. One token stands for a group of g dimensions (one by default). Token t contains the values of group t - 1, its
own position and the embedded context. Token 0 contains only position and context, so the first dimension is conditioned
on the context as well. Attention is causal among tokens. The output of token t gives the parameters of group t, so
encoding takes one pass. Decoding computes one group after another. The keys and values of earlier tokens are local
variables, so that one network can serve several callers at once.

Noise. With `noise` = sigma > 0 every z in training becomes z + sigma eps, with eps ~ N(0, I) drawn from `generator`.
The flow then learns p_sigma = p * N(0, sigma^2 I). p_sigma is smooth even if p lies on a ridge or a sheet, but is wider
than p. `push` then samples from p_sigma, and `log_prob` is the log density of p_sigma. So samples and density always
match, and both describe z + sigma eps. With `denoise` = k > 0 samples are moved along the score, which is the gradient
of the flow's log density,

    z' = z + k sigma^2 grad log p_sigma(z).

k = 1 is Tweedie's formula, E[z without noise | z with noise], as in the paper. It gives the best estimate of each z,
but the samples together are too narrow. For Gaussian p of sd s, let r = sigma^2 / s^2. Then the variance of the samples
is s^2 (1 + r) without denoising and s^2 / (1 + r) at k = 1. At k = 1/2 it is s^2 (1 + r^2 / (4 (1 + r))). k = 1/2 is
one step of the probability-flow equation dz / d sigma^2 = -1/2 grad log p_sigma. So for posteriors k = 1/2 is the
better choice. The density of z' needs the Hessian of log p_sigma at the original z. So with k > 0 `log_prob` raises
`DensityUnavailable`. By default sigma = 0, and samples and density are exact.

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

BOUND = 5.0  # Splines are the identity outside [-BOUND, BOUND].
LOG_SCALE = 7.0  # Upper limit of |alpha|.
CHUNK = 32_768  # Largest number of tokens that a block takes at once, if nothing is differentiated.

# Keys and values of the earlier tokens, each (n, batch, heads, T, width / heads).
Past = tuple[Tensor, Tensor]


class TransformerAutoregressive(Architecture):
    """Autoregressive flow with causal attention over the dimensions; sampling costs D passes per block.

    Args:
        blocks: K, the number of autoregressive transforms in the chain.
        layers: Number of attention layers of each block.
        width: Width of a token, a multiple of `heads`.
        heads: Number of attention heads.
        bins: Number of pieces of each spline. 0 uses the affine maps of the paper, without splines.
        group: Number of dimensions per token. A larger group saves passes if there are many dimensions. Dimensions of
            one group depend on each other only through other groups.
        noise: sigma, the sd of the noise added in training, in units of the standardised z.
        denoise: k, the fraction of Tweedie's step that samples take. 0 keeps `log_prob` available, 1/2 nearly keeps the
            spread of the posterior, and 1 is the paper's choice.

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
        """Noise and log determinant; for a flow trained with noise, z stands for z + sigma eps.

        Raises:
            DensityUnavailable: If samples are denoised.
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
        """Samples z, denoised if `denoise` is above 0."""
        features = self.embed(context)
        parts = [self._from_noise(part, features) for part in self._chunks(noise)]
        return torch.cat(parts)

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log p_sigma(z + sigma eps | c) of each row, with new noise eps in every row."""
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
        """The score grad log p_sigma(z | c), which is differentiable if gradients are enabled."""
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
    """One autoregressive transform, in the dimension order of its input."""

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
        nn.init.zeros_(self.head.weight)  # The transform starts as the identity.
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mask", torch.ones(self.tokens, self.tokens, dtype=torch.bool).tril(), persistent=False)

    def encode(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        e, log_slope = _bend(z, self.describe(z, features), self.bins)
        return e, log_slope.sum(-1)

    def describe(self, z: Tensor, features: Tensor) -> Tensor:
        """Parameters of every dimension's map, (n, batch, D, P), where dimension d depends on z_<d alone."""
        tokens = self._first_tokens(features)
        if self.value is not None:
            before = z[..., : (self.tokens - 1) * self.group].unflatten(-1, (self.tokens - 1, self.group))
            tokens = tokens + F.pad(self.value(before), (0, 0, 1, 0))
        for layer in self.layers:
            tokens, _ = layer(tokens, self.mask, None)
        return self._read(tokens)[..., : self.dim, :].to(z.dtype)

    def decode(self, e: Tensor, features: Tensor) -> Tensor:
        """The z with encode(z) = e, computed one group after another."""
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
        """Token contents other than values of z: position and embedded context, (1, batch, T, width)."""
        return (self.context(features)[:, None] + self.position)[None]

    def _read(self, tokens: Tensor) -> Tensor:
        """Map parameters (n, batch, T g, P), computed from tokens (n, batch, T, width)."""
        return self.head(self.norm(tokens)).unflatten(-1, (self.group, -1)).flatten(-3, -2)


class _Layer(nn.Module):
    """Attention followed by a network per token, each applied to normalised tokens and added to the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor | None, past: Past | None) -> tuple[Tensor, Past]:
        """New tokens, with the keys and values of past and new tokens; token i attends to token j if mask[i, j]."""
        parts = self.project(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(-3, -2) for part in parts.unbind(-3))
        if past is not None:  # All n samples may share the first token.
            key = torch.cat([past[0].expand(len(key), *past[0].shape[1:]), key], dim=-2)
            value = torch.cat([past[1].expand(len(value), *past[1].shape[1:]), value], dim=-2)
        score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if mask is not None:
            score = score.masked_fill(~mask, -math.inf)
        attended = (score.softmax(-1) @ value).transpose(-3, -2).flatten(-2)
        tokens = tokens + self.merge(attended)
        return tokens + self.network(self.before_network(tokens)), (key, value)


def _bend(z: Tensor, raw: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Noise e and log de/dz, for z (*, D) and map parameters (*, D, P)."""
    alpha = _log_scale(raw)
    e, log_slope = (z - raw[..., 0]) * torch.exp(-alpha), -alpha.expand_as(z)
    if bins > 0:
        e, change = _spline(raw, bins).call_and_ladj(e)
        log_slope = log_slope + change
    return e, log_slope


def _straighten(e: Tensor, raw: Tensor, bins: int) -> Tensor:
    """The z with `_bend`(z) = e."""
    u = cast(Tensor, _spline(raw, bins).inv(e)) if bins > 0 else e
    return u * torch.exp(_log_scale(raw)) + raw[..., 0]


def _log_scale(raw: Tensor) -> Tensor:
    return LOG_SCALE * torch.tanh(raw[..., 1] / LOG_SCALE)


def _spline(raw: Tensor, bins: int) -> MonotonicRQSTransform:
    return MonotonicRQSTransform(*raw[..., 2:].split((bins, bins, bins - 1), dim=-1), bound=BOUND)
