"""What the functions of torchsoftmax mean, in plain differentiable PyTorch.

Written for clarity, in the dtype of the inputs: exact enough in float64 to compare with. Where
nothing is asked for that PyTorch has not, these are PyTorch's own functions.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def transformed(input: Tensor, temperature: float, softcap: float | None = None) -> Tensor:
    """The logits z that a function is of: first capped, then divided by the temperature."""
    z = input if softcap is None else softcap * torch.tanh(input / softcap)
    return z if temperature == 1.0 else z / temperature


def taking_part(input: Tensor, mask: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Logits with -inf where ``mask`` is False, and 0 in the rows in which nothing takes part."""
    some = mask.expand(input.shape).any(dim, keepdim=True)
    return torch.where(some, torch.where(mask, input, -inf), 0), mask & some


def softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    if mask is None:
        return F.softmax(transformed(input, temperature), dim, dtype=dtype)
    input, mask = taking_part(input, mask, dim)
    return torch.where(mask, F.softmax(transformed(input, temperature), dim, dtype=dtype), 0)


def log_softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    if mask is None:
        return F.log_softmax(transformed(input, temperature), dim, dtype=dtype)
    input, mask = taking_part(input, mask, dim)
    y = F.log_softmax(transformed(input, temperature), dim, dtype=dtype)
    return torch.where(mask, y, -inf)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    z = transformed(input, temperature, softcap)
    target = target if target.is_floating_point() else target.long()  # F takes no int32
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    if z_loss == 0.0 and sample_weight is None and normalizer is None:
        return F.cross_entropy(z, target, weight, reduction=reduction, **options)

    loss = F.cross_entropy(z, target, weight, reduction="none", **options)
    if z_loss != 0.0:
        loss = loss + z_loss * z.logsumexp(min(1, z.dim() - 1)).square()
    applied = torch.ones_like(loss) if sample_weight is None else sample_weight.to(loss.dtype)
    loss = loss * applied
    if target.shape != input.shape:
        valid = target != ignore_index
        loss = torch.where(valid, loss, 0)
        if weight is not None:
            applied = applied * weight[torch.where(valid, target, 0)]
        applied = torch.where(valid, applied, 0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if normalizer is None:
        normalizer = applied.sum()
    elif isinstance(normalizer, Tensor):
        normalizer = normalizer.to(loss.dtype)
    return loss.sum() / normalizer


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    chunk_size: int | None = None,
    **options: object,
) -> Tensor:
    lead, (classes, *more, _) = input.shape[:-1], linear_weight.shape
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = F.linear(input, linear_weight.flatten(0, -2), bias)
    logits = logits.reshape(lead.numel(), classes, *more)
    probabilities = target.shape == (*lead, classes, *more)
    rows = (lead.numel(), *more)
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(rows)
    loss = cross_entropy(
        logits,
        target.reshape(logits.shape if probabilities else rows),
        reduction=reduction,
        sample_weight=sample_weight,
        **options,
    )
    return loss.reshape((*lead, *more)) if reduction == "none" else loss


def selective_log_softmax(
    input: Tensor, index: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> Tensor:
    return log_softmax(input, dim, temperature=temperature).gather(dim, index.long())


def entropy_with_logits(
    input: Tensor, dim: int, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    log_p = log_softmax(input, dim, temperature=temperature, mask=mask)
    return -(log_p.exp() * log_p.masked_fill(log_p == -inf, 0)).sum(dim)  # 0 log 0 = 0


class Statistics(NamedTuple):
    log_prob: Tensor
    lse: Tensor
    entropy: Tensor
    argmax: Tensor


def softmax_statistics(
    input: Tensor, target: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> Statistics:
    return Statistics(
        selective_log_softmax(input, target.unsqueeze(dim), dim, temperature=temperature).squeeze(
            dim
        ),
        transformed(input, temperature).logsumexp(dim).contiguous(),
        entropy_with_logits(input, dim, temperature=temperature),
        input.argmax(dim),
    )


def linear_softmax_statistics(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> Statistics:
    logits = transformed(F.linear(input, linear_weight, linear_bias), 1.0, softcap)
    return softmax_statistics(logits, target, temperature=temperature)


def kl_div_with_logits(
    input: Tensor, target: Tensor, *, temperature: float = 1.0, reduction: str = "batchmean"
) -> Tensor:
    log_p = log_softmax(input, -1, temperature=temperature)
    log_q = log_softmax(target, -1, temperature=temperature)
    nothing = log_q == -inf  # 0 (log 0 - log p) = 0, whatever p
    log_p = log_p.masked_fill(nothing, 0)
    log_q = log_q.masked_fill(nothing, torch.finfo(log_q.dtype).min)
    loss = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1) * temperature**2
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    return loss.sum() / (input.size(0) if reduction == "batchmean" and input.dim() > 1 else 1)


def softmax_jacobian(input: Tensor, dim: int, *, temperature: float = 1.0) -> Tensor:
    p = _rows(softmax(input, dim, temperature=temperature), dim)
    jacobian = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return (jacobian / temperature).contiguous()


def log_softmax_jacobian(input: Tensor, dim: int, *, temperature: float = 1.0) -> Tensor:
    p = _rows(softmax(input, dim, temperature=temperature), dim)
    ones = torch.ones_like(p)
    jacobian = torch.diag_embed(ones) - ones.unsqueeze(-1) * p.unsqueeze(-2)
    return (jacobian / temperature).contiguous()


def cross_entropy_hessian(input: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    mass = target.sum(-1)[..., None, None]
    return mass * softmax_jacobian(input, -1, temperature=temperature) / temperature


def _rows(tensor: Tensor, dim: int) -> Tensor:
    return tensor.unsqueeze(0) if tensor.dim() == 0 else tensor.movedim(dim, -1)
