# mypy: ignore-errors
"""The kernels of `kernels_triton.py` in Triton's language; they compute what kernels.c computes.

A launch has one program for each block of numbers. `owner` gives the weight of the block, which is a row of `table`
(`kernels_triton._table_rows`). Launches disable the contraction of x * y + z, as kernels.c does, for equal results.
"""

import triton
import triton.language as tl

# Columns of the table.
OLD, G, W, AVERAGE, COUNT, FIRST, KEY0, KEY1 = (tl.constexpr(column) for column in range(8))
COLUMNS = tl.constexpr(8)
# Metrics, variants of weighted_freeze and of sage: the enums of kernels.c.
MAGNITUDE, LOSS_PRESERVING = tl.constexpr(0), tl.constexpr(1)
PRINTED, SMOOTH, RANDOM = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
FULL, LIGHT = tl.constexpr(0), tl.constexpr(2)
NAN_BITS, LARGEST = tl.constexpr(0x7FC0), tl.constexpr(0x7FFFFFFF)


@triton.jit
def _importance(w, g, METRIC: tl.constexpr):
    if METRIC == MAGNITUDE:
        scores = tl.abs(w)
    elif METRIC == LOSS_PRESERVING:
        scores = tl.abs(w * g)
    else:
        scores = g * g
    return scores


@triton.jit
def _floats(address):
    return address.to(tl.pointer_type(tl.float32))


@triton.jit
def ranges(table, owner, bounds, METRIC: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr):
    """Smallest and largest score of each weight, or of all: as bits, which have the order of the floats."""
    part = tl.load(owner + tl.program_id(0)).to(tl.int64)
    row = table + part * COLUMNS
    i = (tl.program_id(0) - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.load(row + COUNT)
    old = tl.load(_floats(tl.load(row + OLD)) + i, mask=inside, other=0.0)
    g = tl.load(_floats(tl.load(row + G)) + i, mask=inside, other=0.0)
    bits = _importance(old, g, METRIC).to(tl.int32, bitcast=True)
    target = bounds
    if not SHARED:
        target = bounds + 2 * part
    tl.atomic_min(target, tl.min(tl.where(inside, bits, LARGEST), 0))
    tl.atomic_max(target + 1, tl.max(tl.where(inside, bits, 0), 0))


@triton.jit
def _mask(w, g, i, lo, hi, rate, k0, k1, METRIC: tl.constexpr, VARIANT: tl.constexpr):
    """The mask of a variant of weighted_freeze, with the random numbers of `masks.uniform`."""
    x = i.to(tl.uint32) ^ k0
    x ^= x >> 16
    x = x * 0x7FEB352D + k1
    x ^= x >> 15
    x = x * 0x846CA68B
    x ^= x >> 16
    u = ((x >> 8) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24
    if VARIANT == RANDOM:
        mask = u <= rate
    elif VARIANT == SMOOTH:
        mask = u * u * (2.0 * (hi - lo)) <= _importance(w, g, METRIC) - lo
    elif VARIANT == PRINTED:
        mask = u * (hi - lo) <= _importance(w, g, METRIC) - lo
    else:
        mask = u * (hi - lo) <= hi - _importance(w, g, METRIC)
    return tl.where(mask, 1.0, 0.0)


@triton.jit
def _from_half(bits):
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _to_half(x):
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x != x, NAN_BITS, rounded).to(tl.uint16)


@triton.jit
def _scale(w, g, average, operand, i, inside, constants, VARIANT: tl.constexpr, HALF: tl.constexpr):
    """The factor of a variant of sage; updates the average."""
    beta, one_minus_beta = tl.load(constants), tl.load(constants + 1)
    eps, max_scale = tl.load(constants + 2), tl.load(constants + 3)
    importance = tl.abs(w * g)
    if VARIANT == LIGHT:
        factor = tl.div_rn(operand + eps, importance + eps)
    else:
        if HALF:
            pointer = average.to(tl.pointer_type(tl.uint16)) + i
            updated = _to_half(_from_half(tl.load(pointer, mask=inside, other=0)) * beta + importance * one_minus_beta)
            corrected = _from_half(updated) * operand
        else:
            pointer = average.to(tl.pointer_type(tl.float32)) + i
            updated = tl.load(pointer, mask=inside, other=0.0) * beta + importance * one_minus_beta
            corrected = updated * operand
        tl.store(pointer, updated, mask=inside)
        denominator = importance
        if VARIANT == FULL:
            denominator = corrected
        factor = tl.div_rn(tl.abs(importance - corrected) + eps, denominator + eps)
    return tl.where(factor > max_scale, max_scale, factor)


@triton.jit
def guide(
    table, owner, bounds, operands, constants,
    METRIC: tl.constexpr, SHARED: tl.constexpr, VARIANT: tl.constexpr, SCALES: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Multiply the gradient or the step of a weight (`kernels_c.GuidedWeight`) by its factor."""
    part = tl.load(owner + tl.program_id(0)).to(tl.int64)
    row = table + part * COLUMNS
    i = (tl.program_id(0) - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.load(row + COUNT)
    operand = tl.load(operands + part)
    g_pointer = _floats(tl.load(row + G)) + i
    old = tl.load(_floats(tl.load(row + OLD)) + i, mask=inside, other=0.0)
    g = tl.load(g_pointer, mask=inside, other=0.0)
    if SCALES:
        factor = _scale(old, g, tl.load(row + AVERAGE), operand, i, inside, constants, VARIANT, HALF)
    else:
        lo_pointer = bounds
        if not SHARED:
            lo_pointer = bounds + 2 * part
        lo, hi = tl.load(lo_pointer).to(tl.float32, bitcast=True), tl.load(lo_pointer + 1).to(tl.float32, bitcast=True)
        k0, k1 = tl.load(row + KEY0).to(tl.uint32), tl.load(row + KEY1).to(tl.uint32)
        factor = _mask(old, g, i, lo, hi, operand, k0, k1, METRIC, VARIANT)
    weight = tl.load(row + W)
    if weight == 0:
        tl.store(g_pointer, g * factor, mask=inside)
    else:
        w_pointer = _floats(weight) + i
        w = tl.load(w_pointer, mask=inside, other=0.0)
        step = w - old
        tl.store(w_pointer, tl.where(factor < 0.5, old + factor * step, w - (1.0 - factor) * step), mask=inside)
