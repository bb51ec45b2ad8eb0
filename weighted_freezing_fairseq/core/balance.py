"""How evenly parameters contribute: statistics of any number of scores, in one pass and in bounded memory.

The degree of contribution balance is the standard deviation of all sensitivities (Xu et al. 2022, section 2.3). Moments
are exact; what needs an order (quantiles, the share of the largest, Gini) comes from a histogram. Left out on purpose:
how scores are measured (`importance.py`), and which of them belong together (`parts.py`).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

# A bin is all the float32 that agree in their exponent and in the first 8 of their 23 bits of fraction: the bits of a
# number that is not negative are ordered as the number is, and no logarithm is rounded.
_SHIFT = 23 - 8
_BINS = 1 << (31 - _SHIFT)
RELATIVE_WIDTH = 2.0**-8  # of the widest bin of normal numbers; below 1.2e-38 bins are 4.6e-41 wide
_BLOCK = 1 << 20
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


@dataclass
class Distribution:
    """Scores that were seen: exact moments in float64, and of each bin how many fell into it and their sum.

    Since the sum of a bin is known, only the order within it is not. With w = `RELATIVE_WIDTH` = 0.39 %: quantiles and
    the means of the largest and of the rest are within w of the exact ones, relatively; Gini is up to w / 4 too small.
    """

    count: int = 0
    zeros: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of (x - mean) ** 2
    largest: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.int64))
    sums: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64))

    @classmethod
    def of(cls, scores: Tensor) -> "Distribution":
        """That of a tensor of finite scores, none negative, on any device: a block at a time, on the CPU."""
        found = cls()
        for block in scores.detach().reshape(-1).split(_BLOCK) if scores.numel() else ():
            block = block.cpu().float() + 0.0  # no negative zero
            if not bool(((block >= 0) & block.isfinite()).all()):
                raise ValueError("scores must be finite and not negative, but some are not")
            exact, bins = block.double(), block.view(torch.int32) >> _SHIFT
            mean = exact.mean()
            found.add_(
                cls(
                    count=len(block),
                    zeros=len(block) - int(block.count_nonzero()),
                    mean=float(mean),
                    squares=float((exact - mean).square().sum()),
                    largest=float(block.max()),
                    counts=torch.bincount(bins, minlength=_BINS),
                    sums=torch.bincount(bins, exact, minlength=_BINS),
                )
            )
        return found

    def add_(self, other: "Distribution") -> None:
        """The scores of `other` too. Moments are merged as they are (Chan et al. 1979): no large squares cancel."""
        if not other.count:
            return
        count = self.count + other.count
        apart = other.mean - self.mean
        self.squares += other.squares + apart * apart * (self.count * other.count / count)
        self.mean += apart * (other.count / count)
        self.count, self.zeros = count, self.zeros + other.zeros
        self.largest = max(self.largest, other.largest)
        self.counts += other.counts
        self.sums += other.sums

    @property
    def std(self) -> float:
        """Standard deviation, divided by n: the degree of contribution balance; lower is more balanced."""
        return math.sqrt(self.squares / self.count)

    def quantile(self, fraction: float) -> float:
        """The smallest score that at least `fraction` of all do not exceed; the mean of its bin stands for it."""
        rank = max(1, math.ceil(fraction * self.count))
        place = int(torch.searchsorted(self.counts.cumsum(0), rank))
        return float(self.sums[place] / self.counts[place])

    def _lorenz(self) -> tuple[Tensor, Tensor]:
        """The Lorenz curve at the edges of the bins: how many scores are below, and their share of the sum."""
        filled = self.counts > 0
        sums = self.sums[filled].cumsum(0)
        start = sums.new_zeros(1)
        return torch.cat([start, self.counts[filled].cumsum(0).double()]), torch.cat([start, sums / sums[-1]])

    def gini(self) -> float:
        """Gini coefficient: 0 where all are equal, (n - 1) / n where one of n has everything; nan where all are 0.

        1 - twice the area under the Lorenz curve, a straight line within a bin.
        """
        below, shares = self._lorenz()
        return float(1 - (below.diff() / self.count * (shares[1:] + shares[:-1])).sum())

    def share_of_top(self, fraction: float) -> float:
        """The share of the sum that the largest `fraction` of the scores hold; nan where all are 0."""
        below, shares = self._lorenz()
        cut = (1 - fraction) * self.count
        place = max(1, int(torch.searchsorted(below, cut)))
        part = (cut - below[place - 1]) / (below[place] - below[place - 1])
        return float(1 - (shares[place - 1] + part * (shares[place] - shares[place - 1])))

    def statistics(self) -> dict[str, float]:
        """Everything a table says of it, by the names of its columns."""
        share = self.share_of_top(0.2)
        top, rest = share * self.mean / 0.2, (1 - share) * self.mean / 0.8
        return {
            "parameters": self.count,
            "zeros": self.zeros,
            "mean": self.mean,
            "std": self.std,
            "std_over_mean": self.std / self.mean if self.mean else math.nan,
            "gini": self.gini(),
            "share_top20": share,
            "mean_top20": top,
            "mean_bottom80": rest,
            "top20_over_bottom80": top / rest if rest > 0 else math.nan if math.isnan(share) else math.inf,
            **{f"q{100 * fraction:g}": self.quantile(fraction) for fraction in QUANTILES},
            "max": self.largest,
        }
