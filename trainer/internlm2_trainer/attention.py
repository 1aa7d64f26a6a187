"""Causal attention inside documents, behind one signature."""

import torch
from torch import Tensor
from torch.nn import functional


def document_mask(documents: Tensor) -> Tensor | None:
    """Return which key each query may see, [B, 1, S, S] bool, from the document number of each token [B, S].

    None when every row is one document: then plain causal attention is the same, and faster.
    """
    if bool((documents == documents[:, :1]).all()):
        return None
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return same.tril().unsqueeze(1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention of q [B, S, heads, d] over k, v [B, S, kv_heads, d] as [B, S, heads * d].

    Each KV head serves heads / kv_heads consecutive query heads. `mask` is `document_mask`'s result.
    """
    group = q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(group, dim=2).transpose(1, 2) for t in (k, v))
    out = functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None)
    return out.transpose(1, 2).flatten(2)


def rotary(positions: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin, [B, S, 1, head_size] fp32, of the rotary angles at `positions` [B, S]."""
    pair = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device)
    angles = positions.unsqueeze(-1).float() * base ** (-pair / head_size)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads x [B, S, heads, d] by their positions: element i pairs with i + d/2 (rotate-half order)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)
