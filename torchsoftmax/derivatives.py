r"""The derivatives of softmax, log-softmax and cross-entropy themselves.

Matrices where they are asked for, and their products with vectors without the matrix. All of them
take any number of rows at once, and are differentiable themselves. ``docs/derivatives.md`` derives
them.

A softmax maps C logits to C probabilities, so its derivative is a C × C matrix for each row. For a
tensor of rows along ``dim`` the matrices come last: the shape of ``input`` without ``dim``, then
(C, C). A 0-d tensor is one row of one class.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from torchsoftmax.functional import _check_options

__all__ = [
    "cross_entropy_gradient",
    "cross_entropy_hessian",
    "cross_entropy_hvp",
    "log_softmax_jacobian",
    "softmax_hessian",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
]

_ops = torch.ops.torchsoftmax
_softmax = _ops.softmax.default
_softmax_backward = _ops.softmax_backward.default
_softmax_jacobian = _ops.softmax_jacobian.default
_softmax_hessian = _ops.softmax_hessian.default
_cross_entropy_forward = _ops.cross_entropy_forward.default
_gather_index = _ops.gather_index.default

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INDEX = (torch.int64, torch.int32, torch.uint8)
_SUM = 2  # the reduction whose gradient is that of each row by itself


def softmax_jacobian(input: Tensor, dim: int = -1, *, temperature: float = 1.0) -> Tensor:
    r"""Matrix of derivatives of the softmax of each row.

    With :math:`y = \mathrm{softmax}(x / T)`:

    .. math::
        J_{ij} = \frac{\partial y_i}{\partial x_j} = \frac{y_i (\delta_{ij} - y_j)}{T},
        \qquad J = \frac{\mathrm{diag}(y) - y y^\top}{T}

    It is symmetric and positive semi-definite, and its rows and columns sum to 0.

    Args:
        input: logits of any shape, any strides; float32, float64, bfloat16 or float16.
        dim: the dimension that holds the C classes.
        temperature: positive.

    Returns:
        Of the shape of ``input`` without ``dim``, then (C, C); contiguous; of the dtype of
        ``input``. ``[..., i, j]`` is the derivative of output i with respect to input j. Written
        in one pass.

    Raises:
        IndexError: ``dim`` is out of range.
        NotImplementedError: ``input`` is not of one of the dtypes above.
        ValueError: ``temperature`` is not positive and finite.

    A row whose softmax is nan (one that holds nan or +inf, or nothing but -inf) gives a matrix of
    nan. One class gives 0. No rows or no classes give an empty tensor. A 0-d tensor gives (1, 1).

    The same as :func:`torch.func.jacrev` of :func:`torchsoftmax.softmax` for one row.

    Example:
        >>> torchsoftmax.derivatives.softmax_jacobian(torch.zeros(2))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    _check_logits("softmax_jacobian", input, temperature)
    return _softmax_jacobian(_softmax(input, dim, None, temperature), dim, temperature, False)


def log_softmax_jacobian(input: Tensor, dim: int = -1, *, temperature: float = 1.0) -> Tensor:
    r"""Matrix of derivatives of the log-softmax of each row.

    With :math:`p = \mathrm{softmax}(x / T)`:

    .. math::
        J_{ij} = \frac{\partial \log p_i}{\partial x_j} = \frac{\delta_{ij} - p_j}{T},
        \qquad J = \frac{I - \mathbf{1} p^\top}{T}

    Its rows sum to 0. It is not symmetric: row i is the score of class i,
    :math:`(e_i - p) / T`, the negative gradient of the cross-entropy with target i.

    Args, returns, raises and edge cases: as in :func:`softmax_jacobian`. An entry of -inf among
    finite ones has probability 0, and its row is that of the formula.

    Example:
        >>> torchsoftmax.derivatives.log_softmax_jacobian(torch.zeros(2))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    _check_logits("log_softmax_jacobian", input, temperature)
    return _softmax_jacobian(_softmax(input, dim, None, temperature), dim, temperature, True)


def softmax_jvp(
    input: Tensor, tangent: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> Tensor:
    r"""Product of the Jacobian of softmax and a vector, of each row: what forward mode computes.

    With :math:`y = \mathrm{softmax}(x / T)` and the tangent :math:`v`:

    .. math::
        J v = \frac{y \odot (v - \langle y, v \rangle)}{T}

    C numbers in and out: the matrix is not formed. As it is symmetric, this is
    :func:`softmax_vjp` with the tangent as the vector.

    Args:
        input: as in :func:`softmax_jacobian`.
        tangent: of the shape and dtype of ``input``.
        dim: the dimension that holds the classes.
        temperature: positive.

    Returns:
        Of the shape and dtype of ``input``.

    Raises:
        RuntimeError: ``tangent`` is not of the shape, dtype and device of ``input``.
        IndexError, NotImplementedError, ValueError: as in :func:`softmax_jacobian`.

    Example:
        >>> torchsoftmax.derivatives.softmax_jvp(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """
    return _jacobian_product("softmax_jvp", "tangent", input, tangent, dim, temperature)


def softmax_vjp(
    input: Tensor, grad_output: Tensor, dim: int = -1, *, temperature: float = 1.0
) -> Tensor:
    r"""Product of a vector and the Jacobian of softmax, of each row: what backward computes.

    With :math:`y = \mathrm{softmax}(x / T)` and the gradient :math:`g` of the output:

    .. math::
        g^\top J = \frac{y \odot (g - \langle g, y \rangle)}{T}

    C numbers in and out: the matrix is not formed.

    Args:
        input: as in :func:`softmax_jacobian`.
        grad_output: the gradient of the output, of the shape and dtype of ``input``.
        dim: the dimension that holds the classes.
        temperature: positive.

    Returns:
        The gradient of ``input``, of its shape and dtype.

    Raises:
        RuntimeError: ``grad_output`` is not of the shape, dtype and device of ``input``.
        IndexError, NotImplementedError, ValueError: as in :func:`softmax_jacobian`.

    Example:
        >>> torchsoftmax.derivatives.softmax_vjp(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """
    return _jacobian_product("softmax_vjp", "grad_output", input, grad_output, dim, temperature)


def softmax_hessian(input: Tensor, dim: int = -1, *, temperature: float = 1.0) -> Tensor:
    r"""Second derivatives of the softmax of each row.

    With :math:`y = \mathrm{softmax}(x / T)`, its Jacobian :math:`J` and that of its logarithm
    :math:`L` (:func:`softmax_jacobian`, :func:`log_softmax_jacobian`):

    .. math::
        H_{ijk} = \frac{\partial^2 y_i}{\partial x_j\, \partial x_k}
        = y_i \Big( L_{ij} L_{ik} - \frac{J_{jk}}{T} \Big)

    Symmetric in j and k; the sum over i, j or k is 0.

    Args, raises and edge cases: as in :func:`softmax_jacobian`.

    Returns:
        Of the shape of ``input`` without ``dim``, then (C, C, C); contiguous; of the dtype of
        ``input``. ``[..., i, j, k]`` is of output i. Written in one pass.

    The same as :func:`torch.func.hessian` of :func:`torchsoftmax.softmax` for one row.

    Example:
        >>> torchsoftmax.derivatives.softmax_hessian(torch.tensor([0.0, 0.0, 0.0]))[0]
        tensor([[ 0.0741, -0.0370, -0.0370],
                [-0.0370, -0.0370,  0.0741],
                [-0.0370,  0.0741, -0.0370]])
    """
    _check_logits("softmax_hessian", input, temperature)
    return _softmax_hessian(_softmax(input, dim, None, temperature), dim, temperature)


def cross_entropy_gradient(input: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Gradient of the cross-entropy of each row with respect to its logits.

    Rows are the last dimension. With :math:`p = \mathrm{softmax}(x / T)`, the target's
    probabilities :math:`q` (for a class index 1 there, 0 elsewhere) and their mass
    :math:`m = \sum_c q_c`, which is 1 for an index:

    .. math::
        \ell = -\sum_c q_c \log p_c, \qquad
        \frac{\partial \ell}{\partial x} = \frac{m\, p - q}{T}

    Args:
        input: logits of shape (…, C), any strides; float32, float64, bfloat16 or float16.
        target: class indices (int64, int32 or uint8) of shape (…); or class probabilities of shape
            (…, C) and of a floating point dtype. They need not sum to 1.
        temperature: positive.

    Returns:
        Of the shape of ``input``, a gradient for each row: nothing is summed or averaged over rows.
        Of the dtype of ``input`` (and of class probabilities of another dtype, promoted).

    Raises:
        IndexError: a class index is out of range; its value is named. Or ``input`` is 0-d.
        NotImplementedError: ``input`` is not of one of the dtypes above.
        RuntimeError: the shape, dtype or device of ``target`` does not fit.
        ValueError: ``temperature`` is not positive and finite.

    No index stands for a row that is ignored. A row that holds nan or +inf, or nothing but -inf,
    gives nan. Nothing is kept of the loss; :func:`torchsoftmax.cross_entropy` computes both.

    Example:
        >>> torchsoftmax.derivatives.cross_entropy_gradient(torch.zeros(4), torch.tensor(1))
        tensor([ 0.2500, -0.7500,  0.2500,  0.2500])
    """
    name = "cross_entropy_gradient"
    input, target = _check_rows(name, input, target, temperature)
    if target.is_floating_point():
        rows = target.unsqueeze(0).flatten(0, -2)
    else:
        rows = _gather_index(target.reshape(-1), input.size(-1), None, name)
    _, _, _, gradient = _cross_entropy_forward(
        input.unsqueeze(0).flatten(0, -2),
        rows,
        None,
        None,
        None,
        None,
        True,
        _SUM,
        temperature=temperature,
    )
    return gradient.view(input.shape)


def cross_entropy_hessian(input: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Second derivatives of the cross-entropy of each row with respect to its logits.

    With :math:`p` and the mass :math:`m` of the target as in :func:`cross_entropy_gradient`:

    .. math::
        H = \frac{m\, (\mathrm{diag}(p) - p p^\top)}{T^2}

    It depends on the target by its mass alone. Symmetric and, where :math:`m \ge 0`, positive
    semi-definite: cross-entropy is convex in the logits. Also the Gauss-Newton matrix of the
    logits and, where :math:`m = 1`, their Fisher information.

    Args, raises and edge cases: as in :func:`cross_entropy_gradient`.

    Returns:
        Of the shape of ``input``, then (C) once more: (…, C, C). A matrix for each row.

    Example:
        >>> torchsoftmax.derivatives.cross_entropy_hessian(torch.zeros(2), torch.tensor(1))
        tensor([[ 0.2500, -0.2500],
                [-0.2500,  0.2500]])
    """
    name = "cross_entropy_hessian"
    input, target = _check_rows(name, input, target, temperature)
    p = _softmax(input, -1, None, temperature)
    hessian = _softmax_jacobian(p, -1, temperature * temperature, False)
    mass = _mass(name, input, target)
    return hessian if mass is None else mass[..., None, None] * hessian


def cross_entropy_hvp(
    input: Tensor, target: Tensor, vector: Tensor, *, temperature: float = 1.0
) -> Tensor:
    r"""Product of the Hessian of cross-entropy and a vector, of each row.

    With :math:`p` and the mass :math:`m` of the target as in :func:`cross_entropy_gradient`:

    .. math::
        H v = \frac{m\, p \odot (v - \langle p, v \rangle)}{T^2}

    C numbers in and out: the matrix is not formed. For a model with logits :math:`x(\theta)`, the
    product of its Gauss-Newton matrix, which is its Fisher information where :math:`m = 1`, is the
    vector-Jacobian product of ``cross_entropy_hvp(x, target, Jacobian-vector product of x)``.

    Args:
        input, target, temperature: as in :func:`cross_entropy_gradient`.
        vector: of the shape and dtype of ``input``.

    Returns:
        Of the shape of ``input``.

    Raises:
        RuntimeError: ``vector`` is not of the shape, dtype and device of ``input``.
        Otherwise as in :func:`cross_entropy_gradient`.

    Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian"; Schraudolph 2002, "Fast
    curvature matrix-vector products for second-order gradient descent".

    Example:
        >>> logits, target, vector = torch.zeros(2), torch.tensor(1), torch.tensor([1.0, 0.0])
        >>> torchsoftmax.derivatives.cross_entropy_hvp(logits, target, vector)
        tensor([ 0.2500, -0.2500])
    """
    name = "cross_entropy_hvp"
    _check_vector(name, "vector", vector, input)
    input, target = _check_rows(name, input, target, temperature)
    p = _softmax(input, -1, None, temperature)
    product = _softmax_backward(vector.to(p.dtype), p, -1, temperature * temperature)
    mass = _mass(name, input, target)
    return product if mass is None else mass.unsqueeze(-1) * product


def _jacobian_product(
    function: str, argument: str, input: Tensor, vector: Tensor, dim: int, temperature: float
) -> Tensor:
    """The Jacobian is symmetric: one product from both sides."""
    _check_logits(function, input, temperature)
    _check_vector(function, argument, vector, input)
    return _softmax_backward(vector, _softmax(input, dim, None, temperature), dim, temperature)


def _mass(function: str, input: Tensor, target: Tensor) -> Tensor | None:
    """Of the target of each row; None: 1, as for every class index."""
    if target.is_floating_point():
        return target.sum(-1)
    _gather_index(target, input.size(-1), None, function)  # raises for one that is out of range
    return None


def _check_logits(function: str, input: Tensor, temperature: float) -> None:
    if input.dtype not in _FLOATING:
        raise NotImplementedError(
            f"{function}: expected input of dtype float16, bfloat16, float32 or float64, "
            f"got {_name(input.dtype)}"
        )
    _check_options(function, temperature)
    if not 0 < temperature < inf:
        raise ValueError(
            f"{function}: expected temperature to be positive and finite, got {temperature}"
        )


def _check_vector(function: str, argument: str, vector: Tensor, input: Tensor) -> None:
    if (vector.shape, vector.dtype, vector.device) != (input.shape, input.dtype, input.device):
        raise RuntimeError(
            f"{function}: expected {argument} to match input, {_facts(input)}, got {_facts(vector)}"
        )


def _check_rows(
    function: str, input: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Input and target, of one dtype where the target holds probabilities."""
    _check_logits(function, input, temperature)
    if input.dim() == 0:
        raise IndexError(f"{function}: expected input of 1 or more dimensions, got a 0-d tensor")
    probabilities = target.dtype in _FLOATING
    shape = input.shape if probabilities else input.shape[:-1]
    if not (probabilities or target.dtype in _INDEX) or target.shape != shape:
        raise RuntimeError(
            f"{function}: expected target to hold class indices (int64, int32 or uint8) of shape "
            f"{tuple(input.shape[:-1])} or class probabilities (floating point) of shape "
            f"{tuple(input.shape)}, got {_name(target.dtype)} of shape {tuple(target.shape)}"
        )
    if target.device != input.device:
        raise RuntimeError(
            f"{function}: expected target on device {input.device} like input, got {target.device}"
        )
    if probabilities and target.dtype != input.dtype:
        common = torch.promote_types(input.dtype, target.dtype)
        return input.to(common), target.to(common)
    return input, target


def _facts(tensor: Tensor) -> str:
    return f"{_name(tensor.dtype)} of shape {tuple(tensor.shape)} on {tensor.device}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
