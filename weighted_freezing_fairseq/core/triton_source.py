# mypy: ignore-errors
"""The kernels of `kernels_triton.py`, in Triton's language: kernels.c for all weights of a model in one launch.

A launch has one program for each block of numbers. `owner` says whose block it is: a row of `table`, whose columns are
those of `kernels_triton._rows`. Left out on purpose: contraction of x * y + z, which the launches switch off, so that
every number is that of kernels.c where it does not contract either.
"""

import triton
import triton.language as tl

# Columns of the table.
W, G, OLD, FACTOR, AVERAGE, COUNT, FIRST, ACTION, KEY0, KEY1 = (tl.constexpr(column) for column in range(10))
COLUMNS = tl.constexpr(10)
# Actions, metrics, variants of weighted_freeze and of sage: the enums of kernels.c.
GRADIENT, CHANGE, SCALE_CHANGE = (tl.constexpr(guide) for guide in range(1, 4))
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
    """lo and hi of each frozen weight, or of all together, as the bits of floats: theirs is the floats' order."""
    part = tl.load(owner + tl.program_id(0)).to(tl.int64)
    row = table + part * COLUMNS
    action = tl.load(row + ACTION)
    if (action == GRADIENT) | (action == CHANGE):
        i = (tl.program_id(0) - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
        inside = i < tl.load(row + COUNT)
        w = tl.load(_floats(tl.load(row + W)) + i, mask=inside, other=0.0)
        g = tl.load(_floats(tl.load(row + G)) + i, mask=inside, other=0.0)
        bits = _importance(w, g, METRIC).to(tl.int32, bitcast=True)
        goal = bounds
        if not SHARED:
            goal = bounds + 2 * part
        tl.atomic_min(goal, tl.min(tl.where(inside, bits, LARGEST), 0))
        tl.atomic_max(goal + 1, tl.max(tl.where(inside, bits, 0), 0))


@triton.jit
def _kept(w, g, i, lo, hi, rate, k0, k1, METRIC: tl.constexpr, VARIANT: tl.constexpr):
    """What a rule of weighted_freeze keeps, by the numbers of `masks.uniform`."""
    x = i.to(tl.uint32) ^ k0
    x ^= x >> 16
    x = x * 0x7FEB352D + k1
    x ^= x >> 15
    x = x * 0x846CA68B
    x ^= x >> 16
    u = ((x >> 8) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2 ** -24
    if VARIANT == RANDOM:
        kept = u <= rate
    elif VARIANT == SMOOTH:
        kept = u * u * (2.0 * (hi - lo)) <= _importance(w, g, METRIC) - lo
    elif VARIANT == PRINTED:
        kept = u * (hi - lo) <= _importance(w, g, METRIC) - lo
    else:
        kept = u * (hi - lo) <= hi - _importance(w, g, METRIC)
    return tl.where(kept, 1.0, 0.0)


@triton.jit
def _from_half(bits):
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _to_half(x):
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x != x, NAN_BITS, rounded).to(tl.uint16)


@triton.jit
def _scaled(w, g, average, operand, i, inside, constants, VARIANT: tl.constexpr, HALF: tl.constexpr):
    """The factor of a row of sage; its average moves on."""
    beta, rest = tl.load(constants), tl.load(constants + 1)
    eps, most = tl.load(constants + 2), tl.load(constants + 3)
    importance = tl.abs(w * g)
    if VARIANT == LIGHT:
        factor = tl.div_rn(operand + eps, importance + eps)
    else:
        if HALF:
            kept = average.to(tl.pointer_type(tl.uint16)) + i
            moved = _to_half(_from_half(tl.load(kept, mask=inside, other=0)) * beta + importance * rest)
            usual = _from_half(moved) * operand
        else:
            kept = average.to(tl.pointer_type(tl.float32)) + i
            moved = tl.load(kept, mask=inside, other=0.0) * beta + importance * rest
            usual = moved * operand
        tl.store(kept, moved, mask=inside)
        below = importance
        if VARIANT == FULL:
            below = usual
        factor = tl.div_rn(tl.abs(importance - usual) + eps, below + eps)
    return tl.where(factor > most, most, factor)


@triton.jit
def _advanced(w, old, factor):
    """old + factor * (w - old), exact for factors 0 and 1."""
    moved = w - old
    return tl.where(factor < 0.5, old + factor * moved, w - (1.0 - factor) * moved)


@triton.jit
def guide(
    table, owner, bounds, operands, constants,
    METRIC: tl.constexpr, SHARED: tl.constexpr, VARIANT: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a guide does before the base steps (`kernels_c.GuidedWeight`)."""
    part = tl.load(owner + tl.program_id(0)).to(tl.int64)
    row = table + part * COLUMNS
    i = (tl.program_id(0) - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.load(row + COUNT)
    action = tl.load(row + ACTION)
    operand = tl.load(operands + part)
    at_g = _floats(tl.load(row + G)) + i
    w = tl.load(_floats(tl.load(row + W)) + i, mask=inside, other=0.0)
    g = tl.load(at_g, mask=inside, other=0.0)
    if action == SCALE_CHANGE:
        factor = _scaled(w, g, tl.load(row + AVERAGE), operand, i, inside, constants, VARIANT, HALF)
    else:
        found = bounds
        if not SHARED:
            found = bounds + 2 * part
        lo, hi = tl.load(found).to(tl.float32, bitcast=True), tl.load(found + 1).to(tl.float32, bitcast=True)
        k0, k1 = tl.load(row + KEY0).to(tl.uint32), tl.load(row + KEY1).to(tl.uint32)
        factor = _kept(w, g, i, lo, hi, operand, k0, k1, METRIC, VARIANT)
    if action == GRADIENT:
        tl.store(at_g, g * factor, mask=inside)
    else:
        tl.store(_floats(tl.load(row + OLD)) + i, w, mask=inside)
        tl.store(_floats(tl.load(row + FACTOR)) + i, factor, mask=inside)


@triton.jit
def advance(table, owner, BLOCK: tl.constexpr):
    """w <- old + factor * (w - old)."""
    row = table + tl.load(owner + tl.program_id(0)).to(tl.int64) * COLUMNS
    i = (tl.program_id(0) - tl.load(row + FIRST)) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.load(row + COUNT)
    at = _floats(tl.load(row + W)) + i
    old = tl.load(_floats(tl.load(row + OLD)) + i, mask=inside, other=0.0)
    factor = tl.load(_floats(tl.load(row + FACTOR)) + i, mask=inside, other=0.0)
    tl.store(at, _advanced(tl.load(at, mask=inside, other=0.0), old, factor), mask=inside)
