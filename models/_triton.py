"""Triton kernels for the operations of a ConvNeXt block between its convolution and its two matrix products.

`layer_norm` normalises and converts to the precision of the matrix products in one pass over memory; `bias_gelu` adds
the bias and applies GELU in one pass. Each backward pass computes the gradients of the input and of the parameters in
one pass too. The matrix products themselves stay with cuBLAS. The kernels compute in fp32, whatever precision is
stored. Both are registered with torch.library.triton_op, so that torch.compile can trace into them.

Importing this file needs Triton. Running the kernels needs a GPU, or TRITON_INTERPRET=1 in the environment before the
import.
"""

# Triton compiles its kernels for the types of each call, so that their parameters have no annotations.
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

TILE = 2048
"""Number of elements that one program (Triton's unit of parallel work) holds at a time."""
COLUMNS = 128
"""Number of channels that one program of `bias_gelu` covers."""
PROGRAMS = 512
"""A backward pass spreads its rows over at most this many programs.

Each writes one partial sum of the parameters' gradients. The partial sums are added in a fixed order, without atomic
additions, so that the gradients are the same each time.
"""


@triton.jit
def _norm_forward(x, weight, bias, out, mean, scale, rows, channels, eps, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Normalise ROWS rows, and store their means and inverse standard deviations (`scale`) for the backward pass."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    place = row[:, None] * channels + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    center = tl.sum(value, axis=1) / channels
    value = tl.where(inside, value - center[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(value * value, axis=1) / channels + eps)
    w = tl.load(weight + column, mask=column < channels, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=column < channels, other=0.0).to(tl.float32)
    result = value * inverse[:, None] * w[None, :] + b[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)
    tl.store(mean + row, center, mask=row < rows)
    tl.store(scale + row, inverse, mask=row < rows)


@triton.jit
def _norm_backward(
    grad,
    x,
    weight,
    mean,
    scale,
    grad_x,
    grad_weight,
    grad_bias,
    rows,
    channels,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute the gradient of the input, and one partial sum of the gradients of weight and bias per program."""
    column = tl.arange(0, WIDTH)
    w = tl.load(weight + column, mask=column < channels, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((WIDTH,), tl.float32)
    bias_sum = tl.zeros((WIDTH,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < channels)[None, :]
        place = row[:, None] * channels + column[None, :]
        inverse = tl.load(scale + row, mask=row < rows, other=0.0)
        center = tl.load(mean + row, mask=row < rows, other=0.0)
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        normal = tl.where(inside, (value - center[:, None]) * inverse[:, None], 0.0)
        upstream = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        weight_sum += tl.sum(upstream * normal, axis=0)
        bias_sum += tl.sum(upstream, axis=0)
        upstream *= w[None, :]
        along = tl.sum(upstream * normal, axis=1) / channels
        level = tl.sum(upstream, axis=1) / channels
        result = (upstream - level[:, None] - normal * along[:, None]) * inverse[:, None]
        tl.store(grad_x + place, result.to(grad_x.dtype.element_ty), mask=inside)
    partial = tl.program_id(0) * channels + column
    tl.store(grad_weight + partial, weight_sum, mask=column < channels)
    tl.store(grad_bias + partial, bias_sum, mask=column < channels)


@triton.jit
def _gelu(x, TANH: tl.constexpr):
    """Return GELU of x and its derivative. The compiler removes the one that the caller does not use."""
    # tanh(u) = 2 sigmoid(2u) - 1, u = sqrt(2/pi) (x + 0.044715 x^3)
    if TANH:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        share = tl.sigmoid(2.0 * inner)
        slope = share + x * 2.0 * share * (1.0 - share) * 0.7978845608028654 * (1.0 + 0.134145 * x * x)
    else:
        share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope = share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return x * share, slope


@triton.jit
def _gelu_forward(x, bias, out, rows, channels, TANH: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Compute GELU of x + bias for a tile of ROWS rows and WIDTH channels."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    place = row[:, None] * channels + column[None, :]
    b = tl.load(bias + column, mask=column < channels, other=0.0).to(tl.float32)
    value, _ = _gelu(tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + b[None, :], TANH)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_backward(
    grad, x, bias, grad_x, grad_bias, rows, channels, TANH: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Compute the gradient of the input, and one partial sum of the gradient of the bias per program."""
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    b = tl.load(bias + column, mask=column < channels, other=0.0).to(tl.float32)
    bias_sum = tl.zeros((WIDTH,), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < channels)[None, :]
        place = row[:, None] * channels + column[None, :]
        _, slope = _gelu(tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + b[None, :], TANH)
        result = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32) * slope
        bias_sum += tl.sum(result, axis=0)
        tl.store(grad_x + place, result.to(grad_x.dtype.element_ty), mask=inside)
    tl.store(grad_bias + tl.program_id(0) * channels + column, bias_sum, mask=column < channels)


def _tile(channels: int) -> tuple[int, int]:
    """Return the number of rows and of columns of a tile that holds whole rows. Triton needs a power of two columns."""
    width = triton.next_power_of_2(channels)
    return max(1, TILE // width), width


@triton_op("burnish::layer_norm", mutates_args={})
def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised rows, and the mean and the inverse standard deviation of each row."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty_like(x, dtype=dtype)
    mean, scale = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    tile, width = _tile(channels)
    wrap_triton(_norm_forward)[(triton.cdiv(rows, tile),)](
        x, weight, bias, out, mean, scale, rows, channels, eps, ROWS=tile, WIDTH=width
    )
    return out, mean, scale


@triton_op("burnish::layer_norm_backward", mutates_args={})
def _norm_grads(grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the input, the weight and the bias of `_norm`."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    tile, width = _tile(channels)
    programs = min(PROGRAMS, triton.cdiv(rows, tile))
    grad_x = torch.empty_like(x)
    weight_sum, bias_sum = (torch.empty(programs, channels, dtype=torch.float32, device=x.device) for _ in range(2))
    wrap_triton(_norm_backward)[(programs,)](
        grad, x, weight, mean, scale, grad_x, weight_sum, bias_sum, rows, channels, ROWS=tile, WIDTH=width
    )
    return grad_x, weight_sum.sum(0).to(weight.dtype), bias_sum.sum(0).to(weight.dtype)


@triton_op("burnish::bias_gelu", mutates_args={})
def _bias_gelu(x: Tensor, bias: Tensor, tanh: bool) -> Tensor:
    """Return GELU of x + bias."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    out = torch.empty_like(x)
    tile = TILE // COLUMNS
    wrap_triton(_gelu_forward)[(triton.cdiv(rows, tile), triton.cdiv(channels, COLUMNS))](
        x, bias, out, rows, channels, TANH=tanh, ROWS=tile, WIDTH=COLUMNS
    )
    return out


@triton_op("burnish::bias_gelu_backward", mutates_args={})
def _bias_gelu_grads(grad: Tensor, x: Tensor, bias: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of the input and the bias of `_bias_gelu`."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    tile = TILE // COLUMNS
    programs = min(PROGRAMS, triton.cdiv(rows, tile))
    grad_x = torch.empty_like(x)
    partial = torch.empty(programs, channels, dtype=torch.float32, device=x.device)
    wrap_triton(_gelu_backward)[(programs, triton.cdiv(channels, COLUMNS))](
        grad, x, bias, grad_x, partial, rows, channels, TANH=tanh, ROWS=tile, WIDTH=COLUMNS
    )
    return grad_x, partial.sum(0).to(bias.dtype)


def _save_for_norm_grads(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save x, weight, mean and scale of a call of `_norm` for its backward pass."""
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _norm_grads_from_saved(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments of `_norm`. None stands for eps and dtype."""
    return *_norm_grads(grad.contiguous(), *ctx.saved_tensors), None, None


def _save_for_gelu_grads(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save x, bias and the kind of GELU of a call of `_bias_gelu` for its backward pass."""
    ctx.save_for_backward(*inputs[:2])
    ctx.tanh = inputs[2]


def _gelu_grads_from_saved(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments of `_bias_gelu`. None stands for tanh."""
    return *_bias_gelu_grads(grad.contiguous(), *ctx.saved_tensors, ctx.tanh), None


_norm.register_autograd(_norm_grads_from_saved, setup_context=_save_for_norm_grads)
_bias_gelu.register_autograd(_gelu_grads_from_saved, setup_context=_save_for_gelu_grads)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalise over the last axis, and return the result in `dtype`."""
    return _norm(x.contiguous(), weight, bias, eps, dtype)[0]


def bias_gelu(x: Tensor, bias: Tensor, tanh: bool) -> Tensor:
    """Return GELU of x + bias, exact or by the tanh approximation, in the precision of x.

    The bias has one value per position of the last axis of x.
    """
    return _bias_gelu(x.contiguous(), bias, tanh)
