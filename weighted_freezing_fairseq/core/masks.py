"""Random masks and masks of the largest scores; in all masks of this package 1 means: is updated.

Random numbers are a function of (seed, update, parameter name, position). The generator has no state, so that all
ranks and a resumed run draw the same masks, and other random streams (dropout) are not affected.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

_M1, _M2 = 0x7FEB352D, 0x846CA68B  # the multipliers of the `lowbias32` integer hash


def stream_key(seed: int, update: int, name: str) -> tuple[int, int]:
    """Two 32-bit words that identify a random stream; equal on every machine, process and Python version."""
    digest = hashlib.blake2b(f"{seed}\n{update}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _signed(word: int) -> int:
    """The int32 that has the same 32 bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def uniform(count: int, key: tuple[int, int], start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Numbers `start .. start + count - 1` of stream `key`: float32 in (0, 1], multiples of 2 ** -24.

    x = lowbias32(position ^ key[0]) with key[1] added between its two rounds; u = ((x >> 8) + 1) / 2 ** 24.
    The interval is open at 0 so that an event of probability 0 never happens. Positions wrap at 2 ** 32. PyTorch has no
    logical shift of signed integers, so `>>` is followed by `& mask`.
    """
    x = torch.arange(count, dtype=torch.int32, device=device)
    x.add_(_signed(start)).bitwise_xor_(_signed(key[0]))
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_M1).add_(_signed(key[1]))
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(_M2))
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
    return x.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).add_(1).float().mul_(2.0**-24)


def keep_probability(importance: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """p = (hi - I) / (hi - lo), and 1 where hi = lo: the most important weight is always frozen, the least never.

    p is linear in I, so that p of the mean score is the mean probability: the expected fraction that is updated.
    """
    return torch.where(hi > lo, (hi - importance) / (hi - lo), torch.ones_like(importance))


def keep_mask(importance: Tensor, lo: Tensor, hi: Tensor, u: Tensor) -> Tensor:
    """b ~ Bernoulli(`keep_probability`) from uniform numbers u: 1 where u * (hi - lo) <= hi - I.

    Written without a division, so that hi = lo needs no special case (0 <= 0 keeps everything).
    """
    return u * (hi - lo) <= hi - importance


# Selection by score over all tensors. Histograms of the scores' bits replace a sort of all scores, which would need a
# copy of the model.

_SELECT_BLOCK = 1 << 22
_NOT_FINITE = "scores must be finite and not negative, but some are NaN, infinite or negative"


def _bits(scores: Sequence[Tensor]) -> Iterator[Tensor]:
    """The bits of the scores as int32, in blocks. Floats that are not negative have the same order as their bits."""
    for score in scores:
        for block in score.detach().reshape(-1).split(_SELECT_BLOCK):
            block = block.float() + 0.0  # no negative zero
            if not bool(((block >= 0) & block.isfinite()).all()):
                raise ValueError(_NOT_FINITE)
            yield block.view(torch.int32)


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin of the k-th largest score, and the number of scores in higher bins."""
    from_top = histogram.flip(0).cumsum(0)
    index_from_top = int(torch.searchsorted(from_top, k))
    index = len(histogram) - 1 - index_from_top
    return index, int(from_top[index_from_top] - histogram[index])


def _kth_largest(scores: Sequence[Tensor], k: int) -> tuple[Tensor, int]:
    """The k-th largest of all scores as a float32, and how many are larger."""
    count = sum(score.numel() for score in scores)
    if not 1 <= k <= count:
        raise ValueError(f"there is no {k}-th largest of {count} scores")
    high_counts, low_counts = torch.zeros(1 << 15, dtype=torch.int64), torch.zeros(1 << 16, dtype=torch.int64)
    for bits in _bits(scores):
        high_counts += torch.bincount(bits >> 16, minlength=1 << 15).cpu()
    high, above = _bin_of(high_counts, k)
    for bits in _bits(scores):
        low_counts += torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=1 << 16).cpu()
    low, between = _bin_of(low_counts, k - above)
    return torch.tensor(high << 16 | low, dtype=torch.int32).view(torch.float32), above + between


def largest(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Masks of exactly the k largest of all scores together; of equal scores the first ones are selected."""
    if k == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    threshold, larger = _kth_largest(scores, k)
    ties_left = k - larger
    masks = []
    for score in scores:
        values = score.detach().float().contiguous()
        mask = values > threshold.to(score.device)
        ties = (values == threshold.to(score.device)).view(-1).nonzero().view(-1)[:ties_left]
        mask.view(-1)[ties] = True
        ties_left -= len(ties)
        masks.append(mask)
    return masks


def largest_in_tensor(scores: Tensor, fraction: float) -> Tensor:
    """The mask of exactly k = round(fraction * n), at least one, of the n scores of a tensor; ties as in `largest`.

    It makes copies of the tensor and never waits for a GPU, so that it fits an update.
    """
    values = scores.reshape(-1)
    k = max(1, round(fraction * len(values)))
    threshold = values.kthvalue(len(values) - k + 1).values
    mask, ties = values > threshold, values == threshold
    mask |= ties & (ties.cumsum(0, dtype=torch.int32) <= k - mask.sum())
    return mask.view(scores.shape)


def matches(pattern: re.Pattern[str] | None, name: str) -> bool:
    """Whether there is a pattern and it matches anywhere in `name`."""
    return pattern is not None and pattern.search(name) is not None


def density_masks(
    scores: Mapping[str, Tensor], density: float, always: re.Pattern[str] | None, norm: str = "global"
) -> dict[str, Tensor]:
    """Masks of exactly k = round(density * n) of all n scores: those whose name matches `always`, then the largest.

    `norm` is `global`, the largest of all scores, or `tensor`, the largest of each tensor, as many as its share of k.
    Tensors in `always` count in k, as Sung et al. count the classifier, which is always in their mask.
    """
    k = selected_count({name: score.numel() for name, score in scores.items()}, density, always)
    free = [score for name, score in scores.items() if not matches(always, name)]
    if norm == "tensor":
        counts = shares(k, [score.numel() for score in free])
        selected = iter([largest([score], count)[0] for score, count in zip(free, counts, strict=True)])
    else:
        selected = iter(largest(free, k))
    return {
        name: torch.ones_like(score, dtype=torch.bool) if matches(always, name) else next(selected)
        for name, score in scores.items()
    }


def dealt(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Split masks into `parts` disjoint ones that cover them.

    The numbers in them, largest score first, are dealt out in turn: a part has as many numbers as another, or one less,
    and its share of the important ones.
    """
    chosen = torch.cat([scores[name][mask].float() for name, mask in masks.items()])
    turns = torch.empty(len(chosen), dtype=torch.int64)
    turns[chosen.argsort(descending=True, stable=True)] = torch.arange(len(chosen)) % parts
    of_tensors = turns.split([int(mask.sum()) for mask in masks.values()])

    def part(number: int) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(mask).masked_scatter_(mask, own == number)
            for (name, mask), own in zip(masks.items(), of_tensors, strict=True)
        }

    return [part(number) for number in range(parts)]


def shares(k: int, sizes: Sequence[int]) -> list[int]:
    """Split k into parts in proportion to `sizes`, each less than 1 away from its exact share, that add up to k.

    >>> from weighted_freezing_fairseq.core.masks import shares
    >>> shares(5, [3, 3, 4])
    [2, 1, 2]
    """
    total, before, parts = sum(sizes), 0, []
    for end in itertools.accumulate(sizes):
        parts.append((2 * k * end + total) // (2 * total) - before)  # rounds k * end / total
        before += parts[-1]
    return parts


def block_masks(
    scores: Mapping[str, Tensor], density: float, always: re.Pattern[str] | None, size: int
) -> dict[str, Tensor]:
    """Masks of whole blocks of `size` x `size`, those with the largest mean scores over all matrices.

    Blocks are selected in the order of their means, as long as at most k = round(density * n) of all n scores are. Only
    matrices have blocks. Those at the lower and right edge are smaller where `size` does not divide a matrix. Tensors
    whose name matches `always` are selected as a whole and count in k.
    """
    k = block_count({name: score.shape for name, score in scores.items()}, density, always, size)
    masks = {name: torch.full_like(s, matches(always, name), dtype=torch.bool) for name, s in scores.items()}
    matrices = {name: s for name, s in scores.items() if s.dim() == 2 and s.numel() and not matches(always, name)}
    pool = partial(F.avg_pool2d, kernel_size=size, ceil_mode=True)  # the mean of what is inside the matrix
    means = {name: pool(score[None].float())[0].cpu() for name, score in matrices.items()}
    flat = torch.cat([mean.flatten() for mean in means.values()])
    if not bool(flat.isfinite().all()):
        raise ValueError(_NOT_FINITE)
    counts = torch.cat([
        pool(torch.ones(1, *score.shape), divisor_override=1).flatten() for score in matrices.values()
    ]).long()  # fmt: skip
    order = flat.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[order] = counts[order].cumsum(0) <= k
    for (name, mean), blocks in zip(means.items(), chosen.split([m.numel() for m in means.values()]), strict=True):
        rows, columns = scores[name].shape
        whole = blocks.view(mean.shape).repeat_interleave(size, 0)[:rows].repeat_interleave(size, 1)[:, :columns]
        masks[name].copy_(whole)
    return masks


def block_count(shapes: Mapping[str, torch.Size], density: float, always: re.Pattern[str] | None, size: int) -> int:
    """How many numbers `block_masks` selects at most by their blocks; ValueError if the largest block does not fit."""
    k = selected_count({name: shape.numel() for name, shape in shapes.items()}, density, always)
    matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and not matches(always, name)]
    largest_block = max((min(size, rows) * min(size, columns) for rows, columns in matrices), default=0)
    if not 0 < largest_block <= k:
        total = sum(shape.numel() for shape in shapes.values())
        allowed = round(density * total)
        raise ValueError(
            f"a block has up to {largest_block:,} numbers, but density {density} leaves {k:,} of {total:,} for blocks; "
            f"give a smaller block, or a density of at least "
            f"{math.ceil(1e6 * (allowed - k + largest_block) / total) / 1e6:.6f}"
        )
    return k


def selected_count(sizes: Mapping[str, int], density: float, always: re.Pattern[str] | None) -> int:
    """How many numbers `density_masks` selects by their scores."""
    total, forced = sum(sizes.values()), sum(size for name, size in sizes.items() if matches(always, name))
    k = round(density * total)
    if forced > k:
        raise ValueError(
            f"{forced:,} numbers are always in the mask, but density {density} allows only {k:,} of {total:,}; "
            f"give a density of at least {math.ceil(1e6 * forced / total) / 1e6:.6f}"
        )
    return k - forced


def quantile(scores: Sequence[Tensor], fraction: float) -> float:
    """The smallest score that at least `fraction` of all scores do not exceed (fraction > 0)."""
    count = sum(score.numel() for score in scores)
    rank = max(1, math.ceil(fraction * count))
    return float(_kth_largest(scores, count - rank + 1)[0])
