"""The share of weights that each rule of Weighted Freezing freezes in an update, by importance metric and distribution.

    python benchmarks/frozen_share.py

The weights are a square matrix from one of three distributions. The gradients are normal with log-normal scales,
because gradients of a real batch differ by orders of magnitude. Training logs this share as `frozen_fraction`.
"""

import argparse

import torch
from tabulate import tabulate

from weighted_freezing_fairseq import RULES, GuidedOptimizer
from weighted_freezing_fairseq.core.importance import METRICS
from weighted_freezing_fairseq.core.rules import forms
from weighted_freezing_fairseq.core.scope import Slot


def frozen_fraction(weights: torch.Tensor, grads: torch.Tensor, rule: str, importance: str) -> float:
    """The share of weights that an update freezes."""
    parameter = torch.nn.Parameter(weights.clone())
    parameter.grad = grads.clone()
    slot = Slot("weight", parameter, parameter.shape)
    base = torch.optim.SGD([parameter], lr=0.0)
    optimizer = GuidedOptimizer(base, [slot], "weighted_freeze", variant=rule, importance=importance)
    optimizer.record = True
    optimizer.step()
    return float(optimizer.recorded["frozen_fraction"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512, help="rows and columns of the matrix (default 512)")
    parser.add_argument("--seed", type=int, default=1, help="for weights and gradients (default 1)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    size = (args.width, args.width)
    distributions = {
        "uniform": torch.rand(size) * 2 - 1,
        "normal": torch.randn(size),
        "Student t, 3 degrees": torch.distributions.StudentT(3.0).sample(size),
    }
    grads = torch.randn(size) * torch.randn(size).exp()
    rules = [row.variant for row in forms(RULES["weighted_freeze"].name)]
    rows = [
        [name, metric, *(f"{100 * frozen_fraction(weights, grads, rule, metric):.1f} %" for rule in rules)]
        for name, weights in distributions.items()
        for metric in METRICS
    ]
    print(tabulate(rows, ["weights", "importance", *rules], "github", disable_numparse=True))


if __name__ == "__main__":
    main()
