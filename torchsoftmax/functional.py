"""The functions of torchsoftmax. Each is a drop-in for ``torch.nn.functional``'s of its name."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross_entropy", "log_softmax", "softmax"]

_ops = torch.ops.torchsoftmax
_softmax = _ops.softmax.default
_log_softmax = _ops.log_softmax.default
_cross_entropy = _ops.cross_entropy.default

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    r"""Softmax along a dimension: non-negative, and 1 in sum.

    .. math::
        y_i = \frac{\exp(x_i - \max_j x_j)}{\sum_k \exp(x_k - \max_j x_j)}

    The derivative is the matrix :math:`\partial y_i / \partial x_j = y_i (\delta_{ij} - y_j)`;
    backward applies it without forming it: ``grad_input = y * (grad - (grad * y).sum(dim))``.

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the classes, from ``-input.dim()`` to ``input.dim() - 1``.
        dtype: convert ``input`` to this dtype first; needed for integer input.

    Returns:
        A contiguous tensor of the shape of ``input`` and of its dtype, or of ``dtype``. Sums are
        accumulated in float32 (float64 for float64).

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: the dtype is not one of those above.

    A row that holds nan or +inf, or nothing but -inf, gives nan, as in PyTorch. A 0-d tensor gives
    1. Empty tensors give empty tensors.

    Same function as :func:`torch.nn.functional.softmax`.

    Example:
        >>> torchsoftmax.softmax(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), dim=1)
        tensor([[5.0000e-01, 5.0000e-01],
                [3.7835e-44, 1.0000e+00]])
    """
    return _softmax(input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    r"""Logarithm of the softmax, computed without forming the softmax. In nats.

    .. math::
        y_i = x_i - m - \log \sum_k \exp(x_k - m), \qquad m = \max_j x_j

    The derivative is :math:`\partial y_i / \partial x_j = \delta_{ij} - \exp(y_j)`; backward
    computes ``grad_input = grad - exp(y) * grad.sum(dim)``.

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the classes, from ``-input.dim()`` to ``input.dim() - 1``.
        dtype: convert ``input`` to this dtype first; needed for integer input.

    Returns:
        A contiguous tensor of the shape of ``input`` and of its dtype, or of ``dtype``; all its
        values are at most 0.

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: the dtype is not one of those above.

    An entry of -inf gives -inf. A row that holds nan or +inf, or nothing but -inf, gives nan, as in
    PyTorch. A 0-d tensor gives 0.

    Same function as :func:`torch.nn.functional.log_softmax`.

    Example:
        >>> torchsoftmax.log_softmax(torch.tensor([0.0, 0.0, 1000.0]), dim=0)
        tensor([-1000., -1000.,     0.])
    """
    return _log_softmax(input, dim, dtype)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross-entropy between logits and targets, in nats; logits are read once.

    For each row of ``C`` logits :math:`x`, with class weights :math:`w` (1 where not given) and
    label smoothing :math:`\varepsilon`:

    .. math::
        \ell = -\sum_c q_c \log p_c, \qquad p = \mathrm{softmax}(x), \qquad
        \frac{\partial \ell}{\partial x_c} = p_c \sum_k q_k - q_c

    where for class indices :math:`q_c = (1 - \varepsilon)\, w_c [c = \mathrm{target}] +
    \varepsilon\, w_c / C`, and for class probabilities :math:`q_c = w_c ((1 - \varepsilon)\,
    \mathrm{target}_c + \varepsilon / C)`.

    Args:
        input: logits of shape (C), (N, C) or (N, C, d1, …, dK), any strides; float32, float64,
            bfloat16 or float16.
        target: class indices (int64, int32 or uint8) of shape (), (N) or (N, d1, …, dK); or class
            probabilities of the shape of ``input`` and of a floating point dtype.
        weight: one weight for each class, of shape (C) and of the dtype of ``input``.
        ignore_index: rows of this target do not take part: loss 0, gradient 0.
        reduction: ``"none"``: the loss of each row; ``"sum"``: their sum; ``"mean"``: their sum
            over the sum of the targets' weights (for class probabilities: over the number of rows).
        label_smoothing: from 0 to 1, the part of each target that is spread over all classes.

    Returns:
        A 0-d tensor, or for ``"none"`` a tensor of shape (), (N) or (N, d1, …, dK); of the dtype
        of ``input`` (float32 for lower precision under ``torch.autocast``).

    Raises:
        IndexError: a target is out of range; its value is named, and no memory is read with it.
        ValueError: the batch sizes differ, or ``reduction`` is unknown.
        RuntimeError: another shape or dtype does not fit, ``label_smoothing`` is out of range,
            ``ignore_index`` is not negative with class probabilities, or ``weight`` requires a
            gradient with class indices.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    Where every row is ignored, or there is none, ``"mean"`` gives nan and ``"sum"`` 0. A class
    probability of 0 at a logit of -inf gives nan (0 · inf), as in PyTorch. The gradient of an
    ignored row is 0 even where its logits hold nan. Sums are accumulated in float32 (float64 for
    float64), over rows in float64, and do not depend on the number of threads.

    Same function as :func:`torch.nn.functional.cross_entropy`; label smoothing is that of Szegedy
    et al. 2016 (arXiv 1512.00567).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> torchsoftmax.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.2395, 1.0986])
    """
    try:
        code = _REDUCTIONS[reduction]
    except KeyError:
        raise ValueError(
            f"cross_entropy: expected reduction 'none', 'mean' or 'sum', got {reduction!r}"
        ) from None
    return _cross_entropy(input, target, weight, None, code, ignore_index, label_smoothing)
