r"""Networks of an autoregressive model: one per factor (link), which sees the inputs of earlier links and a context.

Link i of D gets the inputs v that belong to the links before it and the context c. Its output is u_i,

    h_i = A_i (m_i v) + B_i c + b_i,
    h_i <- h_i + sigmoid(G_ik c + g_ik) (W_ik2 silu(W_ik1 silu(h_i) + b_ik1) + b_ik2),      k = 1 ... K,
    u_i = silu(h_i),

where the mask m_i is 1 for the inputs of earlier links and 0 for the others. Through the sigmoid gates the context
multiplies functions of the inputs. Such products are needed, for example, to sum data between two change points that
are among the inputs. All links are computed as one batched product. Sampling computes the links one after another.

References:
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Chain(nn.Module):
    """Networks of all links of an autoregressive model; see the module for the equations.

    Args:
        widths: Number of inputs that belong to each link.
        features: Width of the context c.
        hidden: Width of the hidden state h.
        blocks: K, the number of residual blocks.
    """

    mask: Tensor

    def __init__(self, widths: Sequence[int], features: int, hidden: int, blocks: int) -> None:
        super().__init__()
        links, inputs = len(widths), sum(widths)
        self.links, self.hidden, self.blocks = links, hidden, blocks
        self.enter = nn.Parameter(_uniform(links, inputs, hidden, fan=max(1, inputs)))
        self.given = nn.Parameter(_uniform(features, links * hidden * (1 + blocks), fan=features))
        self.given_bias = nn.Parameter(torch.zeros(links * hidden * (1 + blocks)))
        self.first = nn.Parameter(_uniform(blocks, links, hidden, hidden, fan=hidden))
        self.first_bias = nn.Parameter(torch.zeros(blocks, links, 1, hidden))
        self.second = nn.Parameter(_uniform(blocks, links, hidden, hidden, fan=hidden) * 0.1)
        self.second_bias = nn.Parameter(torch.zeros(blocks, links, 1, hidden))
        owner = torch.arange(links).repeat_interleave(torch.tensor(list(widths)))
        mask = (owner[None, :] < torch.arange(links)[:, None]).float()[:, :, None]
        self.register_buffer("mask", mask, persistent=False)

    def prepare(self, context: Float[Tensor, "batch feature"]) -> Float[Tensor, "layer link batch hidden"]:
        """Terms that depend on the context alone, for every layer of every link."""
        found = torch.addmm(self.given_bias, context, self.given)
        return found.view(-1, self.links, 1 + self.blocks, self.hidden).permute(2, 1, 0, 3)

    def forward(
        self, value: Float[Tensor, "row input"], prepared: Float[Tensor, "layer link row hidden"]
    ) -> Float[Tensor, "link row hidden"]:
        """Outputs u of all links.

        Args:
            value: Inputs v, one row per sample.
            prepared: Result of `prepare`, with one row for each row of v.
        """
        return self._through(value.expand(self.links, *value.shape), prepared, slice(None))

    def link(
        self, which: int, value: Float[Tensor, "row input"], prepared: Float[Tensor, "layer link row hidden"]
    ) -> Float[Tensor, "row hidden"]:
        """Output u of the link with index `which`; the other arguments are those of `forward`."""
        some = slice(which, which + 1)
        return self._through(value[None], prepared[:, some], some)[0]

    def _through(self, value: Tensor, prepared: Tensor, some: slice) -> Tensor:
        h = torch.baddbmm(prepared[0], value, self.enter[some] * self.mask[some])
        for k in range(self.blocks):
            change = torch.baddbmm(self.first_bias[k, some], F.silu(h), self.first[k, some])
            change = torch.baddbmm(self.second_bias[k, some], F.silu(change), self.second[k, some])
            h = torch.addcmul(h, change, prepared[1 + k].sigmoid())
        return F.silu(h)


def _uniform(*shape: int, fan: int) -> Tensor:
    bound = fan**-0.5
    return torch.empty(*shape).uniform_(-bound, bound)
