"""Mixtral 8x7B: Llama's layer with a sparse mixture of experts as feed-forward block (Jiang et al., arXiv 2401.04088).

Expert products are batched products over [experts, capacity, width] with `capacity = ceil(tokens·active/experts)`
slots per expert (GShard, Lepikhin et al., arXiv 2006.16668, section 2.2, with capacity factor 1). For a balanced
router, which training aims at, that computes exactly what Mixtral's dropless products compute, 2·active
parameters·tokens FLOPs; an unbalanced router would drop the tokens beyond an expert's capacity, where Mixtral drops
none and waits for its busiest expert. `torch._grouped_mm` drops none either, but torch 2.13 follows its shapes in
bfloat16 only, so a step in any other precision could not be captured, and torch's FLOP counter does not know it. No
auxiliary balancing loss: the paper states none.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from worklode.frontend.zoo.llama import LlamaConfig, language_model
from worklode.frontend.zoo.workload import Workload

MIXTRAL_8X7B = LlamaConfig(
    width=4096,
    layers=32,
    heads=32,
    key_value_heads=8,
    feed_forward_width=14_336,
    vocabulary=32_000,
    context=32_768,
    rotary_base=1_000_000.0,
)
MIXTRAL_EXPERTS = 8
MIXTRAL_ACTIVE_EXPERTS = 2


class GatedExperts(nn.Module):
    """SwiGLU of every expert at once: weights stacked along the experts."""

    def __init__(self, experts: int, width: int, inner_width: int) -> None:
        super().__init__()
        # The bound of nn.Linear's default initialisation, per expert.
        self.gate = nn.Parameter(
            nn.init.uniform_(torch.empty(experts, width, inner_width), -(width**-0.5), width**-0.5)
        )
        self.up = nn.Parameter(nn.init.uniform_(torch.empty(experts, width, inner_width), -(width**-0.5), width**-0.5))
        self.down = nn.Parameter(
            nn.init.uniform_(torch.empty(experts, inner_width, width), -(inner_width**-0.5), inner_width**-0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x [experts, capacity, width] to the same shape."""
        return torch.bmm(functional.silu(torch.bmm(x, self.gate)) * torch.bmm(x, self.up), self.down)


class MixtureOfExperts(nn.Module):
    """Every token goes through the `active` experts its router scores highest, weighted by their softmax."""

    def __init__(self, width: int, inner_width: int, experts: int, active: int) -> None:
        super().__init__()
        self.num_experts, self.active = experts, active
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = GatedExperts(experts, width, inner_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [batch, tokens, width] to the same shape."""
        rows = x.flatten(0, -2)
        scores, chosen = self.router(rows).topk(self.active)
        capacity = -(-chosen.numel() // self.num_experts)
        slots, kept = self.assign(chosen.flatten(), capacity)
        # Which token sits in each slot. One slot more takes the dropped ones; a free slot repeats token 0, unread.
        pairs = torch.zeros(self.num_experts * capacity + 1, dtype=torch.int64, device=x.device)
        pairs = pairs.scatter(0, slots, torch.arange(slots.numel(), device=x.device))
        dispatched = rows.index_select(0, pairs[:-1] // self.active)
        results = self.experts(dispatched.view(self.num_experts, capacity, -1)).flatten(0, 1)
        picked = results.index_select(0, slots.clamp(max=self.num_experts * capacity - 1)).view(*chosen.shape, -1)
        weights = scores.softmax(dim=-1) * kept.view(chosen.shape)
        return (picked * weights.unsqueeze(-1)).sum(dim=1).view(x.shape)

    def assign(self, chosen: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Slots [pairs] of the expert ids `chosen` [pairs], first come first served, and which pairs found room."""
        is_choice = chosen.unsqueeze(-1) == torch.arange(self.num_experts, device=chosen.device)
        rank = is_choice.cumsum(dim=0).gather(1, chosen.unsqueeze(-1)).squeeze(-1) - 1
        kept = rank < capacity
        return torch.where(kept, chosen * capacity + rank, self.num_experts * capacity), kept


def mixtral_8x7b(batch: int = 1, seq_len: int = 4096) -> Workload:
    """Mixtral 8x7B."""
    make_feed_forward = partial(
        MixtureOfExperts,
        MIXTRAL_8X7B.width,
        MIXTRAL_8X7B.feed_forward_width,
        MIXTRAL_EXPERTS,
        MIXTRAL_ACTIVE_EXPERTS,
    )
    return language_model("mixtral-8x7b", MIXTRAL_8X7B, batch, seq_len, make_feed_forward)
