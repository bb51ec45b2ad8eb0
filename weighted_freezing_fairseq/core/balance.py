"""How evenly parameters contribute: statistics of any number of scores, in one pass and in bounded memory.

The degree of contribution balance is the standard deviation of all sensitivities (Xu et al. 2022, section 2.3). Moments
are exact; what needs an order (quantiles, the share of the largest, Gini) comes from a histogram. Left out on purpose:
how scores are measured (`importance.py`), and which of them belong together (`parts.py`).
"""

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

# A bin is all the float32 that agree in their exponent and in the first 8 of their 23 bits of fraction: the bits of a
# number that is not negative are ordered as the number is, and no logarithm is rounded.
_SHIFT = 23 - 8
_BINS = 1 << (31 - _SHIFT)
RELATIVE_WIDTH = 2.0**-8  # of the widest bin of normal numbers; below 1.2e-38 bins are 4.6e-41 wide
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


class _Moment(IntEnum):
    """Where each stands in `Distribution.moments`; squares: the sum of (x - mean) ** 2."""

    ZEROS = 0
    MEAN = 1
    SQUARES = 2
    SMALLEST = 3
    LARGEST = 4


class Distribution:
    """Scores that were seen: exact moments in float64, and of each bin how many fell into it and their sum.

    Since the sum of a bin is known, only the order within it is not. With w = `RELATIVE_WIDTH` = 0.39 %: quantiles and
    the means of the largest and of the rest are within w of the exact ones, relatively; Gini is up to w / 4 too small.

    Everything is kept on `device`, which has to wait for nothing while scores are added; ask for figures after `cpu()`.
    On a GPU sums are in no fixed order, and may differ in their last bits from one call to the next.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.moments = torch.tensor([0, 0, 0, math.inf, 0], dtype=torch.float64, device=device)
        self.counts = torch.zeros(_BINS, dtype=torch.int64, device=device)
        self.sums = torch.zeros(_BINS, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, scores: Tensor) -> "Distribution":
        """That of a tensor of finite scores, none negative, on its device: a block at a time."""
        found = cls(scores.device)
        for block in scores.detach().reshape(-1).split(block_size(scores)) if scores.numel() else ():
            found.count_(block)
        found.refuse_wrong()
        return found

    def count_(self, scores: Tensor) -> None:
        """One block of scores too, in float32; that they are finite and not negative is for `refuse_wrong`."""
        scores = scores.reshape(-1).float()
        exact = scores.double()
        bins = (scores.view(torch.int32) >> _SHIFT).bitwise_and_(_BINS - 1).long()  # negative zero is in the first
        self.counts.scatter_add_(0, bins, torch.ones_like(bins))
        self.sums.scatter_add_(0, bins, exact)
        mean, range_ = exact.mean(), torch.aminmax(scores)
        zeros = len(bins) - scores.count_nonzero()
        self._merge(len(bins), (zeros, mean, (exact - mean).square_().sum(), range_.min, range_.max))

    def add_(self, other: "Distribution") -> None:
        """The scores of `other` too."""
        if other.count:
            device = self.counts.device
            self._merge(other.count, other.moments.to(device).unbind())
            self.counts += other.counts.to(device)
            self.sums += other.sums.to(device)

    def _merge(self, count: int, moments: Sequence[Tensor]) -> None:
        """Moments are merged as they are (Chan et al. 1979): no large squares cancel."""
        zeros, mean, squares, smallest, largest = self.moments.unbind()
        total = self.count + count
        apart = moments[_Moment.MEAN] - mean
        self.moments = torch.stack(
            [
                zeros + moments[_Moment.ZEROS],
                mean + apart * (count / total),
                squares + (moments[_Moment.SQUARES] + apart * apart * (self.count * count / total)),
                torch.minimum(smallest, moments[_Moment.SMALLEST].double()),
                torch.maximum(largest, moments[_Moment.LARGEST].double()),
            ]
        )
        self.count = total

    def cpu(self) -> "Distribution":
        """The same where its figures can be asked for without waiting for each; it itself if it is there."""
        if self.counts.device.type == "cpu":
            return self
        found = Distribution()
        found.add_(self)
        return found

    def refuse_wrong(self) -> None:
        """Stop where a score was not finite or negative."""
        if self.count and not 0 <= self.smallest <= self.largest < math.inf:
            raise ValueError("scores must be finite and not negative, but some are not")

    @property
    def zeros(self) -> int:
        """How many scores are 0."""
        return int(self.moments[_Moment.ZEROS])

    @property
    def mean(self) -> float:
        return float(self.moments[_Moment.MEAN])

    @property
    def smallest(self) -> float:
        return float(self.moments[_Moment.SMALLEST])

    @property
    def largest(self) -> float:
        return float(self.moments[_Moment.LARGEST])

    @property
    def std(self) -> float:
        """Standard deviation, divided by n: the degree of contribution balance; lower is more balanced."""
        return math.sqrt(float(self.moments[_Moment.SQUARES]) / self.count)

    def quantile(self, fraction: float) -> float:
        """The smallest score that at least `fraction` of all do not exceed; the mean of its bin stands for it."""
        rank = max(1, math.ceil(fraction * self.count))
        place = int(torch.searchsorted(self.counts.cumsum(0), rank))
        return float(self.sums[place] / self.counts[place])

    def lorenz(self) -> tuple[Tensor, Tensor]:
        """The Lorenz curve at the edges of the bins: how many scores are below, and their share of the sum."""
        filled = self.counts > 0
        sums = self.sums[filled].cumsum(0)
        start = sums.new_zeros(1)
        return torch.cat([start, self.counts[filled].cumsum(0).double()]), torch.cat([start, sums / sums[-1]])

    def gini(self, curve: tuple[Tensor, Tensor] | None = None) -> float:
        """Gini coefficient: 0 where all are equal, (n - 1) / n where one of n has everything; nan where all are 0.

        1 - twice the area under the Lorenz curve, a straight line within a bin. curve: `lorenz`, if it is at hand.
        """
        below, shares = curve or self.lorenz()
        return float(1 - (below.diff() / self.count * (shares[1:] + shares[:-1])).sum())

    def share_of_top(self, fraction: float, curve: tuple[Tensor, Tensor] | None = None) -> float:
        """The share of the sum that the largest `fraction` of the scores hold; nan where all are 0."""
        below, shares = curve or self.lorenz()
        cut = (1 - fraction) * self.count
        place = max(1, int(torch.searchsorted(below, cut)))
        part = (cut - below[place - 1]) / (below[place] - below[place - 1])
        return float(1 - (shares[place - 1] + part * (shares[place] - shares[place - 1])))

    def balance(self) -> dict[str, float]:
        """How evenly the scores are spread, by the names of a table's columns."""
        curve = self.lorenz()
        share = self.share_of_top(0.2, curve)
        top, rest = share * self.mean / 0.2, (1 - share) * self.mean / 0.8
        return {
            "mean": self.mean,
            "std": self.std,
            "std_over_mean": self.std / self.mean if self.mean else math.nan,
            "gini": self.gini(curve),
            "share_top20": share,
            "mean_top20": top,
            "mean_bottom80": rest,
            "top20_over_bottom80": top / rest if rest > 0 else math.nan if math.isnan(share) else math.inf,
        }

    def statistics(self) -> dict[str, float]:
        """Everything a table says of it, by the names of its columns."""
        return {
            "parameters": self.count,
            "zeros": self.zeros,
            **self.balance(),
            **{f"q{100 * fraction:g}": self.quantile(fraction) for fraction in QUANTILES},
            "max": self.largest,
        }


def block_size(scores: Tensor) -> int:
    """How many scores to count at a time: fewer than torch spreads over the threads of a CPU (32,768).

    They would wait for each other after every small step, long on a busy machine, and filling bins takes one thread
    anyhow. On other devices what is little beside the scores.
    """
    return (1 << 15) - 64 if scores.device.type == "cpu" else 1 << 22
