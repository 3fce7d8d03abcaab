"""Multi-head attention and the feed-forward block, in the forms the transformer papers share.

Attention itself is `scaled_dot_product_attention`, one operator; heads are views of the projections, so a block makes
no copies. Reference: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, sections 3.2 and 3.3.
"""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads·d] -> [batch, heads, tokens, d], a view."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, d] -> [batch, tokens, heads·d]."""
    return x.transpose(1, 2).flatten(-2)


class MultiHeadAttention(nn.Module):
    """Attention with separate query, key and value projections; self-attention, or cross-attention to a context.

    Args:
        width: width of the input and the output.
        heads: number of heads.
        inner_width: heads times head width; None for `width`.
        context_width: width of what keys and values are made of; None for `width`.
        bias: the query, key and value projections have a bias.
        output_bias: the output projection has a bias.
        dropout: dropout probability of the attention weights.
        causal: a token sees itself and those before it.
        scale: factor of the scores; None for 1/sqrt(head width).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner_width: int | None = None,
        context_width: int | None = None,
        bias: bool = True,
        output_bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        inner_width = inner_width or width
        context_width = context_width or width
        self.heads, self.dropout, self.causal, self.scale = heads, dropout, causal, scale
        self.query = nn.Linear(width, inner_width, bias=bias)
        self.key = nn.Linear(context_width, inner_width, bias=bias)
        self.value = nn.Linear(context_width, inner_width, bias=bias)
        self.output = nn.Linear(inner_width, width, bias=output_bias)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from x [batch, tokens, width] to the context (x itself where None); `mask` is added to the scores."""
        context = x if context is None else context
        mixed = functional.scaled_dot_product_attention(
            split_heads(self.query(x), self.heads),
            split_heads(self.key(context), self.heads),
            split_heads(self.value(context), self.heads),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
            scale=self.scale,
        )
        return self.output(merge_heads(mixed))


class FusedSelfAttention(nn.Module):
    """Self-attention whose query, key and value are one projection, as in GPT-2 and in torchvision's ViT."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within x [batch, tokens, width]."""
        query, key, value = self.query_key_value(x).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(
            split_heads(query, self.heads),
            split_heads(key, self.heads),
            split_heads(value, self.heads),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        return self.output(merge_heads(mixed))


class WrittenOutSelfAttention(nn.Module):
    """Causal self-attention as operators of their own, sequence first, so that heads are views of one projection.

    The order of operators and what they keep for backward is that of arXiv 2205.05198, figure 3: scores, softmax,
    dropout of its result, context.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend within x [tokens, batch, width]; `mask` [tokens, tokens] is True where a token must not look."""
        tokens, batch, width = x.shape
        per_head = self.query_key_value(x).view(tokens, batch * self.heads, 3 * width // self.heads)
        query, key, value = (part.transpose(0, 1) for part in per_head.chunk(3, dim=-1))
        # the factor is for the scores: scaled queries would be kept beside the projection they are a view of
        scores = torch.bmm(query, key.transpose(1, 2)) * (width // self.heads) ** -0.5
        weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        mixed = torch.bmm(functional.dropout(weights, self.dropout, self.training), value)
        return self.output(mixed.transpose(0, 1).reshape(tokens, batch, width))


class FeedForward(nn.Module):
    """Two linear maps with an activation between: width -> inner_width -> width."""

    def __init__(self, width: int, inner_width: int, activation: nn.Module, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner_width, bias=bias)
        self.activation = activation
        self.down = nn.Linear(inner_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., width] to [..., width]."""
        return self.down(self.activation(self.up(x)))
