"""The functions of torchsoftmax.

Those that ``torch.nn.functional`` has by the same name take its arguments by name, but for
deprecated ones (``size_average``, ``reduce``, ``_stacklevel``) and a ``dim`` left out. All but
``weight`` and ``dtype`` are keywords after the first two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from torchsoftmax import _C

__all__ = [
    "SoftmaxStatistics",
    "cross_entropy",
    "entropy_with_logits",
    "kl_div_with_logits",
    "linear_cross_entropy",
    "linear_softmax_statistics",
    "log_softmax",
    "selective_log_softmax",
    "softmax",
    "softmax_statistics",
]

_ops = torch.ops.torchsoftmax
_softmax = _ops.softmax.default
_log_softmax = _ops.log_softmax.default
_cross_entropy = _ops.cross_entropy.default
_linear_cross_entropy = _ops.linear_cross_entropy.default
_softmax_statistics = _ops.softmax_statistics.default
_linear_softmax_statistics = _ops.linear_softmax_statistics.default
_kl_div_with_logits = _ops.kl_div_with_logits.default

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_KL_REDUCTIONS = {**_REDUCTIONS, "batchmean": 3}


def _reduction_code(function: str, codes: dict[str, int], reduction: str) -> int:
    if reduction not in codes:
        *others, last = map(repr, codes)
        raise ValueError(
            f"{function}: expected reduction {', '.join(others)} or {last}, got {reduction!r}"
        )
    return codes[reduction]


def _softcap_or_0(function: str, softcap: float | None) -> float:
    if softcap is None:
        return 0.0
    if not softcap > 0:  # 0 stands for none below
        raise ValueError(f"{function}: expected softcap to be positive and finite, got {softcap}")
    return softcap


def _normalizer_tensor(normalizer: Tensor | float | None) -> Tensor | None:
    if normalizer is None or isinstance(normalizer, Tensor):
        return normalizer
    return torch.scalar_tensor(normalizer, dtype=torch.float64, device="cpu")


def _check_options(function: str, *options: float | None) -> None:
    """Options are numbers. A tensor would be read like one, and its gradient silently lost."""
    for option in options:
        if isinstance(option, Tensor) and option.requires_grad:
            raise TypeError(
                f"{function}: expected options to be numbers, got a tensor that requires grad"
            )


def _check_dtype(function: str, dtype: object) -> None:
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"{function}: expected dtype to be a torch.dtype, got {dtype!r}")


def _check_target(function: str, name: str, target: object) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {target!r}")


def _check_ignore_index(function: str, ignore_index: object) -> None:
    if not isinstance(ignore_index, (int, torch.SymInt)):
        raise TypeError(f"{function}: expected ignore_index to be an int, got {ignore_index!r}")


def _checked(function: str, operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Softmax or log_softmax, of arguments that are checked first."""

    def call(
        input: Tensor, dim: int, dtype: torch.dtype | None, temperature: float, mask: Tensor | None
    ) -> Tensor:
        _check_dtype(function, dtype)
        _check_options(function, temperature)
        return operator(input, dim, dtype, temperature, mask)

    return call


_checked_softmax = _checked("softmax", _softmax)
_checked_log_softmax = _checked("log_softmax", _log_softmax)


def _checked_cross_entropy(input: Tensor, target: Tensor, *more: object) -> Tensor:
    """``more``: the other arguments of the operator, the last five of which are options."""
    ignore_index, *options = more[-5:]
    _check_target("cross_entropy", "target", target)
    _check_ignore_index("cross_entropy", ignore_index)
    _check_options("cross_entropy", *options)
    return _cross_entropy(input, target, *more)


# With less overhead, for arguments of the usual types; of others they call what is in brackets.
# torch.compile does not know them.
_softmax_call = _C.softmax_call(_checked_softmax)
_log_softmax_call = _C.log_softmax_call(_checked_log_softmax)
_cross_entropy_call = _C.cross_entropy_call(_checked_cross_entropy)


def softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Softmax along a dimension: non-negative, and 1 in sum.

    With :math:`z = x / T`, over the entries that take part:

    .. math::
        y_i = \frac{\exp(z_i - \max_j z_j)}{\sum_k \exp(z_k - \max_j z_j)}

    The derivative is the matrix :math:`\partial y_i / \partial x_j = y_i (\delta_{ij} - y_j) / T`;
    backward applies it without forming it:
    ``grad_input = y * (grad - (grad * y).sum(dim)) / temperature``.

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the classes, from ``-input.dim()`` to ``input.dim() - 1``.
        dtype: convert ``input`` to this dtype first; needed for integer input.
        temperature: positive; ``input`` is divided by it.
        mask: bool, of a shape that broadcasts to that of ``input``; it is not expanded in memory.
            True: the entry takes part. An entry that does not gives 0 and gets gradient 0,
            whatever its logit is.

    Returns:
        A contiguous tensor of the shape of ``input`` and of its dtype, or of ``dtype``. Sums are
        accumulated in float32 (float64 for float64).

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: the dtype is not one of those above.
        ValueError: ``temperature`` is not positive and finite.
        RuntimeError: ``mask`` is not bool, or does not broadcast to ``input``.

    A row that holds nan or +inf, or nothing but -inf, gives nan, as in PyTorch; one where nothing
    takes part by the mask gives 0. A 0-d tensor gives 1. Empty tensors give empty tensors.

    Same function as :func:`torch.nn.functional.softmax`.

    Example:
        >>> torchsoftmax.softmax(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), dim=1)
        tensor([[5.0000e-01, 5.0000e-01],
                [3.7835e-44, 1.0000e+00]])
    """
    call = _checked_softmax if is_compiling() else _softmax_call
    return call(input, dim, dtype, temperature, mask)


def log_softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Logarithm of the softmax, computed without forming the softmax. In nats.

    With :math:`z = x / T`, over the entries that take part:

    .. math::
        y_i = z_i - m - \log \sum_k \exp(z_k - m), \qquad m = \max_j z_j

    The derivative is :math:`\partial y_i / \partial x_j = (\delta_{ij} - \exp(y_j)) / T`; backward
    computes ``grad_input = (grad - exp(y) * grad.sum(dim)) / temperature``.

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the classes, from ``-input.dim()`` to ``input.dim() - 1``.
        dtype: convert ``input`` to this dtype first; needed for integer input.
        temperature: positive; ``input`` is divided by it.
        mask: bool, of a shape that broadcasts to that of ``input``; it is not expanded in memory.
            True: the entry takes part. An entry that does not gives -inf and gets gradient 0,
            whatever its logit is.

    Returns:
        A contiguous tensor of the shape of ``input`` and of its dtype, or of ``dtype``; all its
        values are at most 0.

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: the dtype is not one of those above.
        ValueError: ``temperature`` is not positive and finite.
        RuntimeError: ``mask`` is not bool, or does not broadcast to ``input``.

    An entry of -inf gives -inf. A row that holds nan or +inf, or nothing but -inf, gives nan, as in
    PyTorch; one where nothing takes part by the mask gives -inf. A 0-d tensor gives 0.

    Same function as :func:`torch.nn.functional.log_softmax`.

    Example:
        >>> torchsoftmax.log_softmax(torch.tensor([0.0, 0.0, 1000.0]), dim=0)
        tensor([-1000., -1000.,     0.])
    """
    call = _checked_log_softmax if is_compiling() else _log_softmax_call
    return call(input, dim, dtype, temperature, mask)


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
    inplace_backward: bool = False,
) -> Tensor:
    r"""Cross-entropy between logits and targets, in nats, with its usual extensions.

    The input :math:`x` becomes logits by softcap :math:`a` and temperature :math:`T`, in this
    order: :math:`z = a \tanh(x / a) / T` (without softcap :math:`z = x / T`). For each row of
    ``C`` logits, with class weights :math:`w` and a row's weight :math:`s` (1 where not given),
    label smoothing :math:`\varepsilon` and z-loss :math:`\zeta`:

    .. math::
        \ell = s \Big( -\sum_c q_c \log p_c + \zeta\, \mathrm{lse}^2 \Big), \qquad
        p = \mathrm{softmax}(z), \quad \mathrm{lse} = \log \sum_c \exp z_c

    .. math::
        \frac{\partial \ell}{\partial x_c} = s \Big( \big(\sum_k q_k + 2 \zeta\,
        \mathrm{lse}\big)\, p_c - q_c \Big) \frac{1 - \tanh^2(x_c / a)}{T}

    where for class indices :math:`q_c = (1 - \varepsilon)\, w_c [c = \mathrm{target}] +
    \varepsilon\, w_c / C`, and for class probabilities :math:`q_c = w_c ((1 - \varepsilon)\,
    \mathrm{target}_c + \varepsilon / C)`, for which :math:`\partial \ell / \partial
    \mathrm{target}_c = -s\, (1 - \varepsilon)\, w_c \log p_c`.

    Args:
        input: of shape (C), (N, C) or (N, C, d1, …, dK), any strides; float32, float64, bfloat16
            or float16.
        target: class indices (int64, int32 or uint8) of shape (), (N) or (N, d1, …, dK); or class
            probabilities of the shape of ``input`` and of a floating point dtype.
        weight: one weight for each class, of shape (C) and of the dtype of ``input``.
        ignore_index: rows of this target do not take part: loss 0, gradient 0.
        reduction: ``"none"``: the loss of each row; ``"sum"``: their sum; ``"mean"``: their sum
            over the sum of all weights that were applied, :math:`s\,w_\mathrm{target}` of each row
            that takes part (for class probabilities :math:`s`: without ``sample_weight`` the
            number of rows).
        label_smoothing: from 0 to 1, the part of each target that is spread over all classes.
        temperature: positive.
        softcap: positive, or None for none.
        z_loss: 0 or positive; not multiplied by class weights.
        sample_weight: one weight for each row, of the shape of class-index targets and of any
            floating point dtype.
        normalizer: a number or a 0-d tensor that ``"mean"`` divides by instead.
        inplace_backward: let backward write the gradient over the memory of ``input``, which saves
            a tensor of its size. Its version is bumped, so that PyTorch raises where the
            overwritten values are used again by autograd. Without effect where the gradient is
            differentiated again, and under ``torch.func`` and ``torch.compile``.

    Returns:
        A 0-d tensor, or for ``"none"`` a tensor of shape (), (N) or (N, d1, …, dK); of the dtype
        of ``input`` (float32 for lower precision under ``torch.autocast``).

    Raises:
        IndexError: a target is out of range; its value is named, and no memory is read with it.
            Or ``input`` is 0-d.
        ValueError: the batch sizes differ, ``reduction`` is unknown, ``temperature``, ``softcap``,
            ``z_loss``, ``sample_weight`` or ``normalizer`` is not as above, or ``normalizer`` is
            given with a reduction that does not divide.
        RuntimeError: another shape or dtype does not fit, ``label_smoothing`` is out of range,
            ``ignore_index`` is not negative with class probabilities, ``weight`` requires a
            gradient with class indices, or ``inplace_backward`` is asked of a leaf that requires a
            gradient, of a view of one, or of memory that several entries share.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    Where every row is ignored, or there is none, ``"mean"`` gives nan (0 with a ``normalizer``) and
    ``"sum"`` 0. A class probability of 0 at a logit of -inf gives nan (0 · inf), as in PyTorch. The
    gradient of an ignored row is 0 even where its logits hold nan. Sums are accumulated in float32
    (float64 for float64), over rows in float64, and do not depend on the number of threads.
    Gradients with respect to ``sample_weight``, a ``normalizer`` tensor and, for class
    probabilities, ``weight`` are given too, by the composite definition, which is not fused.

    Same function as :func:`torch.nn.functional.cross_entropy` where no extension is used. Label
    smoothing: Szegedy et al. 2016 (arXiv 1512.00567). Temperature: Hinton et al. 2015 (arXiv
    1503.02531). z-loss: PaLM, Chowdhery et al. 2022 (arXiv 2204.02311). Softcap: Gemma 2 (arXiv
    2408.00118).

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> torchsoftmax.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
        tensor([0.2395, 1.0986])
    """
    call = _checked_cross_entropy if is_compiling() else _cross_entropy_call
    return call(
        input,
        target,
        weight,
        sample_weight,
        _normalizer_tensor(normalizer),
        None,
        inplace_backward,
        _reduction_code("cross_entropy", _REDUCTIONS, reduction),
        ignore_index,
        label_smoothing,
        temperature,
        _softcap_or_0("cross_entropy", softcap),
        z_loss,
    )


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Cross-entropy of a linear layer, in nats, without all of its logits in memory.

    The same as ``cross_entropy(linear(input, linear_weight, linear_bias), target, …)``, whose
    docstring has the formula of the loss :math:`\ell` and of the gradient :math:`G` of the logits
    :math:`X W^\top + b`. The logits of a chunk of rows are computed, turned into losses,
    overwritten by :math:`G` and multiplied:

    .. math::
        \frac{\partial \ell}{\partial X} = G W, \qquad
        \frac{\partial \ell}{\partial W} = G^\top X, \qquad
        \frac{\partial \ell}{\partial b} = \sum_n G_n

    For ``"mean"`` and ``"sum"`` this happens in forward, and only for inputs that need a gradient:
    three matrix products, the least there is. For ``"none"`` and in float16 backward computes the
    logits again.

    Args:
        input: of shape (in_features) or (*, in_features); float32, float64, bfloat16 or float16.
        linear_weight: of shape (C, in_features); or (C, d1, …, dK, in_features) for a
            K-dimensional loss, where every row has ``d1 · … · dK`` softmaxes.
        target: class indices (int64, int32 or uint8) of shape (*) or (*, d1, …, dK); or class
            probabilities of shape (*, C) or (*, C, d1, …, dK).
        linear_bias: of the shape of ``linear_weight`` without its last dimension.
        weight, ignore_index, reduction, label_smoothing, temperature, softcap, z_loss,
            sample_weight, normalizer: as in :func:`cross_entropy`; an ``ignore_index`` of None is
            -100. On a CPU, rows whose targets are all ignored are left out of every matrix product.
        chunk_size: rows of logits that are in memory at a time; by default as many as take 48 MB
            (40 MB in bfloat16 and float16), and 16 at least; or, where there are hardly more rows
            than in_features, the logits of all rows for as many classes as take that. On a GPU as
            many rows as take 512 MiB or, in 16 bits, what a float32 sum of the gradient of
            ``linear_weight`` over chunks takes.

    Returns:
        A 0-d tensor, or for ``"none"`` a tensor of the shape of class-index targets; of the dtype
        of ``input`` (float32 for lower precision, and for what is cast to it, under
        ``torch.autocast``).

    Raises:
        RuntimeError: the shapes or the dtypes of ``input``, ``linear_weight``, ``linear_bias`` and
            ``target`` do not go together.
        IndexError, ValueError, RuntimeError, NotImplementedError: as :func:`cross_entropy`;
            ``chunk_size`` is not positive (ValueError).

    No input is written to. An ignored row's input may hold nan. The gradient of ``linear_weight``
    is summed in float32 (float64 for float64) and rounded once: for bfloat16 and float16 in a
    float32 tensor of its size, or, where that would take more than 256 MiB, by tiles of the
    classes, where only the logits of as many rows as there are in_features are not computed again
    (not with smoothing, class probabilities, a K-dimensional loss, or ``weight`` and ``z_loss``
    together: these always take the float32 tensor). Gradients of class probabilities, ``weight``,
    ``sample_weight`` and ``normalizer``, second derivatives, forward-mode AD and ``torch.func``
    come from the definition, which has all logits in memory.

    Same function as :func:`torch.nn.functional.linear_cross_entropy` where no extension is used.

    Example:
        >>> hidden, weight = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        >>> target = torch.tensor([0, 2])
        >>> torchsoftmax.linear_cross_entropy(hidden, weight, target, reduction="none")
        tensor([0.2395, 1.0986])
    """
    _check_target("linear_cross_entropy", "target", target)
    if ignore_index is not None:
        _check_ignore_index("linear_cross_entropy", ignore_index)
    _check_options("linear_cross_entropy", label_smoothing, temperature, softcap, z_loss)
    return _linear_cross_entropy(
        input,
        target,
        weight,
        sample_weight,
        linear_weight,
        linear_bias,
        _normalizer_tensor(normalizer),
        None,
        chunk_size,
        _reduction_code("linear_cross_entropy", _REDUCTIONS, reduction),
        -100 if ignore_index is None else ignore_index,
        label_smoothing,
        temperature,
        _softcap_or_0("linear_cross_entropy", softcap),
        z_loss,
    )


def selective_log_softmax(
    input: Tensor, index: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> Tensor:
    r"""``log_softmax(input / temperature, dim).gather(dim, index)``, in nats, without the former.

    .. math::
        y_k = z_{i_k} - \log \sum_c \exp z_c, \quad z = x / T, \qquad
        \frac{\partial y_k}{\partial x_c} = \frac{[c = i_k] - p_c}{T}, \quad p = \mathrm{softmax}(z)

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        index: class indices (int64, int32 or uint8) of the shape of ``input``, except along
            ``dim``, where it may have any size; an index may come more than once.
        dim: the dimension that holds the classes.
        temperature: positive.

    Returns:
        A contiguous tensor of the shape of ``index`` and of the dtype of ``input``.

    Raises:
        IndexError: ``dim`` or an index is out of range; no memory is read with it.
        ValueError: ``temperature`` is not positive and finite.
        RuntimeError: the shape or the dtype of ``index`` does not fit.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    Nothing of the size of ``input`` is saved for backward. A row of nothing but -inf, or with nan
    or +inf, gives nan.

    The same as :func:`torch.log_softmax` and :func:`torch.gather`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> torchsoftmax.selective_log_softmax(logits, torch.tensor([[0], [2]]))
        tensor([[-0.2395],
                [-1.0986]])
    """
    _check_target("selective_log_softmax", "index", index)
    _check_options("selective_log_softmax", temperature)
    return _softmax_statistics(input, index, None, dim, temperature, False)[0]


def entropy_with_logits(
    input: Tensor, dim: int, *, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""The entropy of ``softmax(input / temperature, dim)``, in nats.

    .. math::
        H = -\sum_c p_c \log p_c, \qquad
        \frac{\partial H}{\partial x_c} = -\frac{p_c (\log p_c + H)}{T}, \qquad
        p = \mathrm{softmax}(x / T)

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the classes.
        temperature: positive.
        mask: bool, of a shape that broadcasts to that of ``input``. True: the entry takes part.

    Returns:
        A tensor of the shape of ``input`` without ``dim`` and of its dtype.

    Raises:
        IndexError: ``dim`` is out of range.
        ValueError: ``temperature`` is not positive and finite.
        RuntimeError: ``mask`` is not bool, or does not broadcast to ``input``.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    :math:`0 \log 0` is 0. A row where nothing takes part by the mask gives 0 and gradient 0; one of
    nothing but -inf, or with nan or +inf, gives nan. Nothing of the size of ``input`` is saved for
    backward.

    The same as ``torch.distributions.Categorical(logits=…).entropy()`` along any dimension.

    Example:
        >>> torchsoftmax.entropy_with_logits(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), dim=1)
        tensor([0.6931, 0.0000])
    """
    _check_options("entropy_with_logits", temperature)
    return _softmax_statistics(input, None, mask, dim, temperature, False)[2]


class SoftmaxStatistics(NamedTuple):
    """What :func:`softmax_statistics` returns, one value for each row."""

    log_prob: Tensor
    """The log-probability of the target, in nats."""
    lse: Tensor
    """The log-sum-exp of the logits over the temperature."""
    entropy: Tensor
    """The entropy of the softmax, in nats."""
    argmax: Tensor
    """The class of the largest logit, int64; not differentiable."""


def softmax_statistics(
    input: Tensor, target: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> SoftmaxStatistics:
    r"""Log-probability of a class, log-sum-exp, entropy and argmax of each row, in one pass.

    With :math:`z = x / T` and :math:`p = \mathrm{softmax}(z)`:

    .. math::
        \log p_t = z_t - \mathrm{lse}, \quad \mathrm{lse} = \log \sum_c \exp z_c, \quad
        H = -\sum_c p_c \log p_c

    .. math::
        \frac{\partial \log p_t}{\partial x_c} = \frac{[c = t] - p_c}{T}, \quad
        \frac{\partial\, \mathrm{lse}}{\partial x_c} = \frac{p_c}{T}, \quad
        \frac{\partial H}{\partial x_c} = -\frac{p_c (\log p_c + H)}{T}

    Args:
        input: any shape, any strides; float32, float64, bfloat16 or float16.
        target: class indices (int64, int32 or uint8) of the shape of ``input`` without ``dim``.
        dim: the dimension that holds the classes.
        temperature: positive.

    Returns:
        :class:`SoftmaxStatistics`; ``log_prob``, ``lse`` and ``entropy`` are of the dtype of
        ``input`` and differentiable, all of them in one pass of backward.

    Raises:
        IndexError: ``dim`` or a target is out of range, or there are no classes.
        ValueError: ``temperature`` is not positive and finite.
        RuntimeError: the shape or the dtype of ``target`` does not fit.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    ``argmax`` is that of :func:`torch.argmax`: the first of equals, and a nan before all else. A
    row of nothing but -inf has log-sum-exp -inf; its other values are nan, as are all of a row with
    nan. Nothing of the size of ``input`` is saved for backward.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> torchsoftmax.softmax_statistics(logits, torch.tensor([0, 2])).entropy
        tensor([0.6656, 1.0986])
    """
    index = target.unsqueeze(dim) if input.dim() > 0 else target
    _check_options("softmax_statistics", temperature)
    log_prob, lse, entropy, argmax, _ = _softmax_statistics(
        input, index, None, dim, temperature, True
    )
    return SoftmaxStatistics(log_prob.view_as(target), lse, entropy, argmax)


def linear_softmax_statistics(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk_size: int | None = None,
) -> SoftmaxStatistics:
    r"""The statistics of a linear layer's softmax, without all of its logits in memory.

    The same as ``softmax_statistics(linear(input, linear_weight, linear_bias), target, …)``, with
    a softcap :math:`a`: of :math:`z = a \tanh(x / a) / T`, :math:`x = X W^\top + b`. It is what
    losses of reinforcement learning and the evaluation of language models are made of. Forward
    computes one matrix product; backward computes it again and one for each gradient.

    Args:
        input: of shape (in_features) or (*, in_features); float32, float64, bfloat16 or float16.
        linear_weight: of shape (C, in_features) and of the dtype of ``input``.
        target: class indices (int64, int32 or uint8) of shape (*).
        linear_bias: of shape (C).
        temperature: positive.
        softcap: positive, or None for none.
        chunk_size: rows of logits in memory at a time; by default as many as
            :func:`linear_cross_entropy` has.

    Returns:
        :class:`SoftmaxStatistics` of tensors of shape (*); ``log_prob``, ``lse`` and ``entropy``
        are of the dtype of ``input`` (under ``torch.autocast`` of its dtype on a CPU, as
        PyTorch's log_softmax is, and float32 on a GPU) and differentiable with respect to
        ``input``, ``linear_weight`` and ``linear_bias``. In bfloat16 and float16 the gradient of
        ``linear_weight`` is summed in a float32 tensor of its size.

    Raises:
        IndexError: a target is out of range, or there are no classes.
        ValueError: ``temperature``, ``softcap`` or ``chunk_size`` is not positive.
        RuntimeError: shapes or dtypes do not go together.
        NotImplementedError: ``input`` is not of one of the dtypes above.

    Example:
        >>> hidden, weight = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        >>> torchsoftmax.linear_softmax_statistics(hidden, weight, torch.tensor([0, 2])).log_prob
        tensor([-0.2395, -1.0986])
    """
    _check_options("linear_softmax_statistics", temperature, softcap)
    log_prob, lse, entropy, argmax, _ = _linear_softmax_statistics(
        input,
        linear_weight,
        linear_bias,
        target,
        temperature,
        _softcap_or_0("linear_softmax_statistics", softcap),
        chunk_size,
    )
    return SoftmaxStatistics(log_prob, lse, entropy, argmax)


def kl_div_with_logits(
    input: Tensor, target: Tensor, *, temperature: float = 1.0, reduction: str = "batchmean"
) -> Tensor:
    r"""Kullback-Leibler divergence of two softmaxes, the loss of knowledge distillation, in nats.

    Rows are the last dimension. With :math:`p = \mathrm{softmax}(\mathrm{input} / T)` (the student)
    and :math:`q = \mathrm{softmax}(\mathrm{target} / T)` (the teacher):

    .. math::
        \ell = T^2\, \mathrm{KL}(q \| p) = T^2 \sum_c q_c (\log q_c - \log p_c)

    .. math::
        \frac{\partial \ell}{\partial\, \mathrm{input}_c} = T (p_c - q_c), \qquad
        \frac{\partial \ell}{\partial\, \mathrm{target}_c} =
        T q_c (\log q_c - \log p_c - \mathrm{KL})

    The factor :math:`T^2` keeps the size of the gradient as the temperature changes.

    Args:
        input: logits of shape (…, C), any strides; float32, float64, bfloat16 or float16.
        target: logits of the same shape; of another floating point dtype both are promoted.
        temperature: positive.
        reduction: ``"none"``: the loss of each row; ``"sum"``: their sum; ``"batchmean"``: their
            sum over the size of the first dimension (1 for a single row, (C)); ``"mean"``: their
            sum over the number of rows.

    Returns:
        A 0-d tensor, or for ``"none"`` a tensor of the shape of ``input`` without its last
        dimension; of the dtype of ``input`` (float32 for lower precision under
        ``torch.autocast``).

    Raises:
        ValueError: the shapes differ, ``input`` is 0-d, ``reduction`` is unknown, or
            ``temperature`` is not positive and finite.
        RuntimeError: ``target`` is on another device.
        NotImplementedError: ``input`` or ``target`` is not of one of the dtypes above.

    :math:`0 \log 0` is 0, also where both softmaxes are 0; where only ``input``'s is, the loss is
    inf. Nothing of the size of ``input`` is saved for backward besides the two inputs.

    The same as ``T**2 * torch.nn.functional.kl_div(log_softmax(input / T, -1),
    log_softmax(target / T, -1), log_target=True)`` summed over the rows. Source: Hinton et al. 2015
    (arXiv 1503.02531).

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> torchsoftmax.kl_div_with_logits(student, teacher, temperature=2.0)
        tensor(0.4438)
    """
    if input.dtype != target.dtype and target.is_floating_point() and input.is_floating_point():
        common = torch.promote_types(input.dtype, target.dtype)
        input, target = input.to(common), target.to(common)
    code = _reduction_code("kl_div_with_logits", _KL_REDUCTIONS, reduction)
    _check_options("kl_div_with_logits", temperature)
    return _kl_div_with_logits(input, target, None, code, temperature)
