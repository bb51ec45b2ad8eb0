"""How evenly parameters contribute: statistics of any number of scores, in one pass and in bounded memory.

The degree of contribution balance is the standard deviation of all sensitivities (Xu et al. 2022, section 2.3). Moments
are exact; quantiles, the share of the largest scores and the Gini coefficient come from a histogram.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A bin holds all float32 that agree in the exponent and in the first 8 of the 23 bits of the fraction: the bits of
# non-negative numbers are in the order of the numbers, so that no logarithm is needed.
_SHIFT = 23 - 8
_BINS = 1 << (31 - _SHIFT)
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


class Distribution:
    """The scores counted so far: exact moments in float64, and the count and the sum of each histogram bin.

    The bins are at most w = 2 ** -8 = 0.39 % wide, relative to their numbers (except below 1.2e-38). Quantiles, and the
    means of the largest scores and of the rest, have a relative error of at most w; Gini is up to w / 4 too small.

    Counting never synchronises with `device`. Read statistics from the copy on the CPU that `cpu()` returns. On a GPU,
    sums are not deterministic in their last bits.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.count = 0
        # The number of zeros, the mean, the sum of (x - mean) ** 2, the smallest and the largest score.
        self.moments = torch.tensor([0, 0, 0, math.inf, 0], dtype=torch.float64, device=device)
        self.counts = torch.zeros(_BINS, dtype=torch.int64, device=device)
        self.sums = torch.zeros(_BINS, dtype=torch.float64, device=device)

    @classmethod
    def from_scores(cls, scores: Tensor) -> "Distribution":
        """The distribution of a tensor of scores, on its device; ValueError if they are not finite or negative."""
        distribution = cls(scores.device)
        for block in scores.detach().reshape(-1).split(counting_block_size(scores)) if scores.numel() else ():
            distribution.count_(block)
        distribution.check_valid()
        return distribution

    def count_(self, scores: Tensor) -> None:
        """Count a block of scores, in float32, without checking that they are valid."""
        scores = scores.reshape(-1).float()
        exact = scores.double()
        bins = (scores.view(torch.int32) >> _SHIFT).bitwise_and_(_BINS - 1).long()  # negative zero is in the first
        self.counts.scatter_add_(0, bins, torch.ones_like(bins))
        self.sums.scatter_add_(0, bins, exact)
        mean, range_ = exact.mean(), torch.aminmax(scores)
        zeros = len(bins) - scores.count_nonzero()
        self._merge_moments(len(bins), (zeros, mean, (exact - mean).square_().sum(), range_.min, range_.max))

    def add_(self, other: "Distribution") -> None:
        """Count the scores of `other`."""
        if other.count:
            device = self.counts.device
            self._merge_moments(other.count, other.moments.to(device).unbind())
            self.counts += other.counts.to(device)
            self.sums += other.sums.to(device)

    def _merge_moments(self, other_count: int, other_moments: Sequence[Tensor]) -> None:
        """Merge moments without cancellation (Chan et al. 1979)."""
        zeros, mean, squares, smallest, largest = self.moments.unbind()
        other_zeros, other_mean, other_squares, other_smallest, other_largest = other_moments
        total = self.count + other_count
        shift = other_mean - mean
        self.moments = torch.stack(
            [
                zeros + other_zeros,
                mean + shift * (other_count / total),
                squares + (other_squares + shift * shift * (self.count * other_count / total)),
                torch.minimum(smallest, other_smallest.double()),
                torch.maximum(largest, other_largest.double()),
            ]
        )
        self.count = total

    def cpu(self) -> "Distribution":
        """The distribution on the CPU; itself if it is there."""
        if self.counts.device.type == "cpu":
            return self
        copy = Distribution()
        copy.add_(self)
        return copy

    def check_valid(self) -> None:
        """ValueError if a score was negative or not finite."""
        smallest = float(self.moments[3])
        if self.count and not 0 <= smallest <= self.largest < math.inf:
            raise ValueError(
                f"scores must be finite and not negative, got some between {smallest:g} and {self.largest:g}; "
                "check the weights and gradients that they come from"
            )

    @property
    def zeros(self) -> int:
        """The number of scores that are 0."""
        return int(self.moments[0])

    @property
    def mean(self) -> float:
        return float(self.moments[1])

    @property
    def std(self) -> float:
        """Standard deviation, divided by n: the degree of contribution balance; lower is more balanced."""
        return math.sqrt(float(self.moments[2]) / self.count)

    @property
    def largest(self) -> float:
        return float(self.moments[4])

    def quantile(self, fraction: float) -> float:
        """The smallest score that at least `fraction` of all scores do not exceed, rounded to the mean of its bin."""
        rank = max(1, math.ceil(fraction * self.count))
        index = int(torch.searchsorted(self.counts.cumsum(0), rank))
        return float(self.sums[index] / self.counts[index])

    def balance(self) -> dict[str, float]:
        """How evenly the scores are spread, by the names of a table's columns.

        gini: 0 if all scores are equal, (n - 1) / n if one score holds the whole sum; 1 - twice the area under the
        Lorenz curve, which is linear within a bin. share_top20: the share of the sum that the largest 20 % of the
        scores hold. Both are nan if all scores are 0.
        """
        # The Lorenz curve at the edges of the bins: the number of scores below, and their share of the sum.
        filled = self.counts > 0
        sums = self.sums[filled].cumsum(0)
        start = sums.new_zeros(1)
        below = torch.cat([start, self.counts[filled].cumsum(0).double()])
        shares = torch.cat([start, sums / sums[-1]])
        gini = float(1 - (below.diff() / self.count * (shares[1:] + shares[:-1])).sum())
        cut = 0.8 * self.count
        index = max(1, int(torch.searchsorted(below, cut)))
        part = (cut - below[index - 1]) / (below[index] - below[index - 1])
        top_share = float(1 - (shares[index - 1] + part * (shares[index] - shares[index - 1])))
        top_mean, rest_mean = top_share * self.mean / 0.2, (1 - top_share) * self.mean / 0.8
        return {
            "mean": self.mean,
            "std": self.std,
            "std_over_mean": self.std / self.mean if self.mean else math.nan,
            "gini": gini,
            "share_top20": top_share,
            "mean_top20": top_mean,
            "mean_bottom80": rest_mean,
            "top20_over_bottom80": top_mean / rest_mean if rest_mean > 0 else math.nan if self.mean == 0 else math.inf,
        }

    def statistics(self) -> dict[str, float]:
        """`balance`, counts, quantiles and the largest score, by the names of a table's columns."""
        return {
            "parameters": self.count,
            "zeros": self.zeros,
            **self.balance(),
            **{f"q{100 * fraction:g}": self.quantile(fraction) for fraction in QUANTILES},
            "max": self.largest,
        }


def counting_block_size(scores: Tensor) -> int:
    """How many scores to count at a time: on the CPU fewer than torch splits between threads (32,768).

    Threads would wait for each other after every short step, and filling bins is single-threaded anyway.
    """
    return (1 << 15) - 64 if scores.device.type == "cpu" else 1 << 22
