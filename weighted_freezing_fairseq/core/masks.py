"""Masks: Bernoulli as a function of (seed, update, parameter name, position) alone, and the top k of all scores.

A counter-based generator has no state: ranks agree, a resumed run agrees, and no other random stream (dropout) moves.
Selection counts the bits of the scores, so that no copy of the model is sorted or concatenated. One polarity in the
whole project: 1 = is updated.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

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
    """p = (hi - I) / (hi - lo), and 1 where hi = lo: the most important weight is always frozen, the least never.

    p is linear in I, so that p of a mean score is the mean probability: the share of weights that is updated.
    """
    return torch.where(hi > lo, (hi - importance) / (hi - lo), torch.ones_like(importance))


def keep_mask(importance: Tensor, lo: Tensor, hi: Tensor, u: Tensor) -> Tensor:
    """b ~ Bernoulli(`keep_probability`) from uniform numbers u: 1 where u * (hi - lo) <= hi - I.

    Without the division, and therefore with no case of its own for hi = lo (0 <= 0 keeps everything).
    """
    return u * (hi - lo) <= hi - importance


# Selection over all tensors at once --------------------------------------------------------------------------------

_SELECT_BLOCK = 1 << 22


def _bits(scores: Sequence[Tensor]) -> Iterator[Tensor]:
    """Scores as int32, a block at a time: the bits of a float32 that is not negative are ordered as the number is."""
    for score in scores:
        for block in score.detach().reshape(-1).split(_SELECT_BLOCK):
            block = block.float() + 0.0  # no negative zero
            if not bool(((block >= 0) & block.isfinite()).all()):
                raise ValueError("scores must be finite and not negative, but some are not")
            yield block.view(torch.int32)


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest, and how many lie in the bins above it."""
    from_top = histogram.flip(0).cumsum(0)
    index = int(torch.searchsorted(from_top, k))
    found = len(histogram) - 1 - index
    return found, int(from_top[index] - histogram[found])


def _kth_largest(scores: Sequence[Tensor], k: int) -> tuple[Tensor, int]:
    """The bits of the k-th largest of all scores together, and how many are larger: two passes over histograms."""
    count = sum(score.numel() for score in scores)
    if not 1 <= k <= count:
        raise ValueError(f"there is no {k}-th largest of {count} scores")
    high_parts, low_parts = torch.zeros(1 << 15, dtype=torch.int64), torch.zeros(1 << 16, dtype=torch.int64)
    for bits in _bits(scores):
        high_parts += torch.bincount(bits >> 16, minlength=1 << 15).cpu()
    high, above = _bin_of(high_parts, k)
    for bits in _bits(scores):
        low_parts += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16).cpu()
    low, between = _bin_of(low_parts, k - above)
    return torch.tensor(high << 16 | low, dtype=torch.int32), above + between


def largest(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Masks of exactly the k largest of all scores together; of equal scores the first ones are taken."""
    if k == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    bits, larger = _kth_largest(scores, k)
    threshold, ties_left = bits.view(torch.float32), k - larger
    masks = []
    for score in scores:
        values = score.detach().float().contiguous()
        mask = values > threshold.to(score.device)
        ties = (values == threshold.to(score.device)).view(-1).nonzero().view(-1)[:ties_left]
        mask.view(-1)[ties] = True
        ties_left -= len(ties)
        masks.append(mask)
    return masks


def largest_beside(scores: Mapping[str, Tensor], density: float, always: re.Pattern[str] | None) -> dict[str, Tensor]:
    """Masks of exactly k = round(density * n) of all n scores: all those whose name `always` finds, then the largest.

    k counts them too, as Sung et al. count the classifier that their mask always holds.
    """
    k = count_beside({name: score.numel() for name, score in scores.items()}, density, always)
    chosen = iter(largest([score for name, score in scores.items() if not (always and always.search(name))], k))
    return {
        name: torch.ones_like(score, dtype=torch.bool) if always and always.search(name) else next(chosen)
        for name, score in scores.items()
    }


def count_beside(sizes: Mapping[str, int], density: float, always: re.Pattern[str] | None) -> int:
    """How many numbers `largest_beside` chooses by their scores."""
    total, taken = sum(sizes.values()), sum(size for name, size in sizes.items() if always and always.search(name))
    wanted = round(density * total)
    if taken > wanted:
        raise ValueError(
            f"{taken:,} numbers are always in the mask, but density {density} lets only {wanted:,} of {total:,} move; "
            f"give a density of at least {math.ceil(1e6 * taken / total) / 1e6:.6f}"
        )
    return wanted - taken


def quantile(scores: Sequence[Tensor], fraction: float) -> float:
    """The smallest score that at least `fraction` of all scores do not exceed (fraction > 0)."""
    count = sum(score.numel() for score in scores)
    rank = max(1, math.ceil(fraction * count))
    return float(_kth_largest(scores, count - rank + 1)[0].view(torch.float32))
