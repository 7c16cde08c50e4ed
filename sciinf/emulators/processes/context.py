"""A whole series read at once, for processes whose posterior at a time depends on all that was seen, before and after.

Two recurrent cells go through the series, one forwards and one backwards. Each sees, at each time, the embedding of the
values, whether there were any, the logarithm of 1 + the time since the last step, controls, and what is known of the
row. Cells in a loop, not `nn.GRU`: only these can be trained side by side (`train_ensemble`).

Reference:
    | Learning phrase representations using RNN encoder-decoder for statistical machine translation (Cho et al., 2014),
      https://arxiv.org/abs/1406.1078
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.emulators.processes.process import Series, Sizes


@final
class SeriesReader(nn.Module):
    """Numbers at each time that know of the whole series.

    Args:
        sizes: Of the series.
        width: Of each cell; there are twice as many numbers at each time.
        ahead: Whether later values are read as well; without, numbers at a time know of the past alone, and there are
            `width` of them.
    """

    def __init__(self, sizes: Sizes, width: int, *, ahead: bool = True) -> None:
        super().__init__()
        inputs = sizes.features + 2 + sizes.controls + sizes.context
        self.cells = nn.ModuleList(nn.GRUCell(inputs, width) for _ in range(2 if ahead else 1))
        self.width, self.outputs = width, width * len(self.cells)

    def forward(self, series: Series, *, begun: Tensor | None = None) -> Float[Tensor, "row time output"]:
        """Read them.

        Args:
            series: Of rows.
            begun: Where reading has begun, bool (row, time): until then it knows of nothing. None for everywhere; only
                for a reader of the past alone.
        """
        inputs = self._inputs(series).unbind(1)
        found = [torch.stack(self._through(self.cells[0], inputs, begun), 1)]
        if len(self.cells) > 1:
            found.append(torch.stack(self._through(self.cells[1], inputs[::-1])[::-1], 1))
        return torch.cat(found, -1)

    def _inputs(self, series: Series) -> Tensor:
        steps = series.steps().log1p().expand(len(series), -1)
        gaps = torch.cat([torch.zeros_like(series.seen[:, :1, 0]), steps.to(series.seen)], 1)
        parts = [series.read, series.there[..., None].to(series.seen), gaps[..., None]]
        if series.controls is not None:
            parts.append(series.controls)
        return torch.cat([*parts, series.context[:, None].expand(-1, series.length, -1)], -1)

    def _through(self, cell: nn.Module, inputs: tuple[Tensor, ...], begun: Tensor | None = None) -> list[Tensor]:
        state = torch.zeros_like(inputs[0][:, :1]).expand(-1, self.width)
        states = []
        for k, each in enumerate(inputs):
            state = cell(each, state)
            if begun is not None:
                state = torch.where(begun[:, k, None], state, 0.0)
            states.append(state)
        return states
