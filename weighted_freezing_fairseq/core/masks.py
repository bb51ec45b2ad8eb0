"""Random masks that are a function of (seed, update, parameter name, position) alone.

A counter-based generator has no state: ranks agree, a resumed run agrees, and no other random stream (dropout) moves.
One polarity in the whole project: 1 = is updated. Left out on purpose: top-k and quantile masks, until a method needs
them.
"""

import hashlib

import torch
from torch import Tensor

_M1, _M2 = 0x7FEB352D, 0x846CA68B  # the multipliers of the `lowbias32` integer hash


def stream_key(seed: int, update: int, name: str) -> tuple[int, int]:
    """Two 32-bit words that name one random stream; equal on every machine, process and Python version."""
    digest = hashlib.blake2b(f"{seed}\n{update}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _signed(word: int) -> int:
    """The int32 that has the same 32 bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def uniform(count: int, key: tuple[int, int], start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Numbers `start .. start + count - 1` of stream `key`: float32 in (0, 1], multiples of 2 ** -24.

    x = lowbias32(position ^ key[0]) with key[1] added between its two rounds; u = ((x >> 8) + 1) / 2 ** 24.
    The interval is open at 0 so that an event of probability 0 never happens. Positions wrap at 2 ** 32. Torch has no
    logical shift for signed integers: `& mask` after `>>` makes one.
    """
    x = torch.arange(count, dtype=torch.int32, device=device)
    x.add_(_signed(start)).bitwise_xor_(_signed(key[0]))
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_M1).add_(_signed(key[1]))
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(_M2))
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
    return x.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).add_(1).float().mul_(2.0**-24)


def keep_probability(importance: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """p = (hi - I) / (hi - lo), and 1 where hi = lo: the most important weight is always frozen, the least never."""
    return torch.where(hi > lo, (hi - importance) / (hi - lo), torch.ones_like(importance))


def keep_mask(importance: Tensor, lo: Tensor, hi: Tensor, u: Tensor) -> Tensor:
    """b ~ Bernoulli(`keep_probability`) from uniform numbers u: 1 where u * (hi - lo) <= hi - I.

    Without the division, and therefore with no case of its own for hi = lo (0 <= 0 keeps everything).
    """
    return u * (hi - lo) <= hi - importance
