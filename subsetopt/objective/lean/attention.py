"""Scaled dot-product attention, with its second derivative by formula: fused kernels have none.

With S = s q k', P = softmax(S + mask) over keys and o = P v, the derivatives for an incoming g are, with dP = g v'
and E = dP - rowsum(P dP): dS = P E, dq = s dS k, dk = s dS' q, dv = P' g. Where q, k, v change by a, b, c and g by h,
S changes by T = s (a k' + q b'), P by U = P (T - rowsum(P T)), o by U v + P c, dP by X = h v' + g c' and dS by
Z = U E - P rowsum(U E) + P (X - rowsum(P X)), so dq by s (Z k + dS b), dk by s (Z' q + dS' a), dv by U' g + P' h:
twelve matrix products where a gradient takes six.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.objective.lean.linear import lean_linear
from subsetopt.objective.lean.operator import Evaluated, Operator, Parts, recorded
from subsetopt.objective.lean.softmax import softmax_backward

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def lean_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    in_cotangent_only: bool,
) -> Tensor | None:
    """Return `F.scaled_dot_product_attention` of the same arguments, recorded leanly; None where there is no rule."""
    leads = {part.shape[:-2] for part in (query, key, value)}
    learned = attn_mask is not None and attn_mask.requires_grad
    if dropout_p or enable_gqa or learned or len(leads) != 1 or query.ndim < 3 or not query.numel() or not key.numel():
        return None
    mask = _added(attn_mask, query)
    if is_causal:
        if mask is not None:
            return None
        mask = _causal(query, key)
    return _attend(query, key, value, mask, scale, in_cotangent_only)


def lean_multi_head_attention(
    args: Sequence[Any], kwargs: Mapping[str, Any], in_cotangent_only: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Return `F.multi_head_attention_forward` of the same arguments, recorded leanly; None where there is no rule.

    torch evaluates it as a whole, so that nothing inside of it is seen one by one.
    """
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    unusual = ("bias_k", "bias_v", "add_zero_attn", "use_separate_proj_weight", "static_k", "static_v")
    x = given["query"]
    masks = [mask for mask in (given["attn_mask"], given["key_padding_mask"]) if mask is not None]
    if any(given[name] is not None and given[name] is not False for name in unusual) or x.ndim != 3:
        return None
    if (given["dropout_p"] and given["training"]) or any(mask.requires_grad for mask in masks):
        return None
    heads = given["num_heads"]
    if x.shape[-1] != given["embed_dim_to_check"] or x.shape[-1] % heads or given["key"].shape != given["value"].shape:
        return None
    q, k, v = _projected(given, heads, in_cotangent_only)
    causal = given["is_causal"] and given["key_padding_mask"] is None and not given["need_weights"]
    mask = _causal(q, k) if causal else _merged(given["attn_mask"], given["key_padding_mask"], q, k)
    attended = _attend(q, k, v, mask, None, in_cotangent_only)
    joined = attended.transpose(1, 2).flatten(2)  # (n, tokens, width)
    weight, bias = given["out_proj_weight"], given["out_proj_bias"]
    output = _linear(joined, weight, bias, in_cotangent_only).transpose(0, 1)
    if not given["need_weights"]:
        return output, None
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return output, weights.mean(1) if given["average_attn_weights"] else weights


def _projected(given: Mapping[str, Any], heads: int, in_cotangent_only: bool) -> Sequence[Tensor]:
    """Return queries, keys and values (n, heads, tokens, width / heads)."""
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    inputs = [given[name] for name in ("query", "key", "value")]
    if inputs[0] is inputs[1] and inputs[0] is inputs[2]:
        joint = _linear(inputs[0].transpose(0, 1), weight, bias, in_cotangent_only)
        apart = joint.view(*joint.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        return apart.contiguous().unbind(0)
    biases = [None] * 3 if bias is None else bias.chunk(3)
    parts = [
        _linear(x.transpose(0, 1), own, shift, in_cotangent_only)
        for x, own, shift in zip(inputs, weight.chunk(3), biases, strict=True)
    ]
    return [part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in parts]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, in_cotangent_only: bool) -> Tensor:
    found = lean_linear(x, weight, bias, in_cotangent_only=in_cotangent_only)
    return F.linear(x, weight, bias) if found is None else found


def _causal(query: Tensor, key: Tensor) -> Tensor:
    future = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    return query.new_zeros(future.shape).masked_fill(future, -math.inf)


def _added(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Return the mask as numbers to add; of truth values, those that are False are left out of attention."""
    if mask is None or mask.dtype != torch.bool:
        return None if mask is None else mask.to(query.dtype)
    return query.new_zeros(mask.shape).masked_fill(~mask, -math.inf)


def _merged(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Return both masks of nn.MultiheadAttention, in which True is left out of attention, as numbers to add."""
    parts = []
    if attn_mask is not None:
        added = _added(~attn_mask if attn_mask.dtype == torch.bool else attn_mask, q)
        assert added is not None
        parts.append(added.view(len(q), -1, *added.shape[1:]) if added.ndim == 3 else added)
    if padding is not None:
        added = _added(~padding if padding.dtype == torch.bool else padding, q)
        assert added is not None
        parts.append(added[:, None, None, :])
    return sum(parts[1:], parts[0]) if parts else None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, in_cotangent_only: bool
) -> Tensor:
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    q, k, v = (part.reshape(-1, *part.shape[-2:]) for part in (query, key, value))
    if mask is not None:
        mask = mask.expand(*query.shape[:-1], key.shape[-2]).reshape(-1, query.shape[-2], key.shape[-2])
    attended = recorded(_Attention(scale), in_cotangent_only, q, k, v, mask)
    return attended.view(*query.shape[:-1], value.shape[-1])


class _Attention(Operator):
    """Over batches of heads (n, T, d)."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def evaluate(self, *inputs: Any) -> Evaluated:
        q, k, v, mask = inputs
        scores = (q @ k.mT).mul_(self.scale)
        # Where all keys are masked, torch's attention is zero, too.
        p = torch.ops.aten._safe_softmax(scores if mask is None else scores.add_(mask), -1)
        return Evaluated(p @ v, (q, k, v, p))

    def gradients(
        self, kept: Any, once: Parts, grad: Tensor, needs: Sequence[bool], curved: bool
    ) -> tuple[Parts, Parts]:
        q, k, v, p = kept
        in_p = grad @ v.mT
        to_scores = softmax_backward(in_p, p, -1).mul_(self.scale)
        at_point = (grad, in_p.sub_((p * in_p).sum(-1, keepdim=True)), to_scores) if curved else ()
        return (to_scores @ k, to_scores.mT @ q, p.mT @ grad, None), at_point

    def change(self, kept: Any, at_point: Parts, changes: Parts, curved: bool) -> tuple[Tensor | None, Parts]:
        q, k, v, p = kept
        of_q, of_k, of_v, _ = changes
        scores = None if of_q is None else torch.bmm(of_q, k.mT)
        if of_k is not None:
            scores = torch.bmm(q, of_k.mT) if scores is None else scores.baddbmm_(q, of_k.mT)
        of_p = None if scores is None else softmax_backward(scores.mul_(self.scale), p, -1)
        out = None if of_p is None else torch.bmm(of_p, v)
        if of_v is not None:
            out = torch.bmm(p, of_v) if out is None else out.baddbmm_(p, of_v)
        return out, (of_q, of_k, of_v, of_p)

    def gradient_changes(self, kept: Any, at_point: Any, seen: Any, grad: Tensor, needs: Sequence[bool]) -> Parts:
        q, k, v, p = kept
        before, centred, to_scores = at_point
        of_q, of_k, of_v, of_p = seen
        in_p = torch.bmm(grad, v.mT)
        in_p = in_p if of_v is None else in_p.baddbmm_(before, of_v.mT)
        through = softmax_backward(in_p, p, -1)
        if of_p is not None:
            bent = of_p * centred
            through.add_(bent).addcmul_(p, bent.sum(-1, keepdim=True), value=-1)
        through.mul_(self.scale)
        in_q, in_k, in_v = torch.bmm(through, k), torch.bmm(through.mT, q), torch.bmm(p.mT, grad)
        if of_k is not None:
            in_q.baddbmm_(to_scores, of_k)
        if of_q is not None:
            in_k.baddbmm_(to_scores.mT, of_q)
        if of_p is not None:
            in_v.baddbmm_(of_p.mT, before)
        return in_q, in_k, in_v, None
