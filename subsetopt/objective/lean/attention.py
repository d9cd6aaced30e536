"""Scaled dot-product attention, with its second derivative by formula: fused kernels have none.

With S = s q k', P = softmax(S + mask) over keys and o = P v, the derivatives for an incoming g are, with dP = g v' and
E = dP - rowsum(P dP): dS = P E, dq = s dS k, dk = s dS' q, dv = P' g. Those of <a, dq> + <b, dk> + <c, dv> are, with
the change of S along it, T = s (a k' + q b'), and that of P, U = P (T - rowsum(P T)):
in g: U v + P c; in v: U' g; and through S, with X = g c', Z = U E + P (X - rowsum(P X) - rowsum(U E)):
in q: s (Z k + dS b); in k: s (Z' q + dS' a).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subsetopt.objective.lean.applied import applied
from subsetopt.objective.lean.linear import lean_linear
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
    attended: Tensor = applied(_Attention, q, k, v, mask, scale, in_cotangent_only)
    return attended.view(*query.shape[:-1], value.shape[-1])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cotangent_only: bool
    ) -> Tensor:
        scores = (q @ k.mT).mul_(scale)
        # Where all keys are masked, torch's attention is zero, too.
        p = torch.ops.aten._safe_softmax(scores if mask is None else scores.add_(mask), -1)
        ctx.save_for_backward(q, k, v, p)
        ctx.scale, ctx.cotangent_only = scale, cotangent_only
        return cast(Tensor, p @ v)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p = ctx.saved_tensors
        if ctx.cotangent_only:
            q, k, v = q.detach(), k.detach(), v.detach()
        return (*applied(_AttentionBackward, grad_outputs[0], q, k, v, p, ctx.scale), None, None, None)


class _AttentionBackward(torch.autograd.Function):
    """(g, q, k, v) -> (dq, dk, dv)."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        in_p = grad @ v.mT
        to_scores = softmax_backward(in_p, p, -1).mul_(scale)
        if any(ctx.needs_input_grad[1:4]):
            centred = in_p.sub_((p * in_p).sum(-1, keepdim=True))
            ctx.save_for_backward(q, k, v, p, grad, centred, to_scores)
        else:
            ctx.save_for_backward(q, k, v, p)
        return to_scores @ k, to_scores.mT @ q, p.mT @ grad

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, p, *at_point = ctx.saved_tensors
        a, b, c = cotangents
        scores = None
        if a is not None:
            scores = torch.bmm(a, k.mT)
        if b is not None:
            scores = torch.bmm(q, b.mT) if scores is None else scores.baddbmm_(q, b.mT)
        changed = None if scores is None else softmax_backward(scores.mul_(ctx.scale), p, -1)
        out = None if changed is None else torch.bmm(changed, v)
        if c is not None:
            out = torch.bmm(p, c) if out is None else out.baddbmm_(p, c)
        if not at_point:
            return out, None, None, None, None, None
        grad, centred, to_scores = at_point
        through = None
        if changed is not None:
            bent = changed * centred
            through = bent.addcmul_(p, bent.sum(-1, keepdim=True), value=-1)
        if c is not None:
            along = softmax_backward(torch.bmm(grad, c.mT), p, -1)
            through = along if through is None else through.add_(along)
        if through is None:
            return out, None, None, None, None, None
        through.mul_(ctx.scale)
        in_q, in_k = torch.bmm(through, k), torch.bmm(through.mT, q)
        if b is not None:
            in_q.baddbmm_(to_scores, b)
        if a is not None:
            in_k.baddbmm_(to_scores.mT, a)
        in_v = None if changed is None else torch.bmm(changed.mT, grad)
        return out, in_q, in_k, in_v, None, None
