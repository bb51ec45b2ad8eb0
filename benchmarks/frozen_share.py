"""The share of weights that each rule of Weighted Freezing holds in an update, by metric and by shape of the weights.

    python benchmarks/frozen_share.py

Weights of a square matrix, drawn from three distributions; gradients are normal with log-normal scales, since those of
a real batch differ by orders of magnitude. Left out on purpose: a trained model, whose own share is `frozen_fraction`
in the log of its training.
"""

import argparse

import torch

from weighted_freezing_fairseq import RULES, GuidedOptimizer
from weighted_freezing_fairseq.core.importance import METRICS
from weighted_freezing_fairseq.core.rules import forms
from weighted_freezing_fairseq.core.scope import Slot


def held(weights: torch.Tensor, grads: torch.Tensor, rule: str, importance: str) -> float:
    """The share that one update holds."""
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
    parser.add_argument("--seed", type=int, default=1, help="of weights and gradients (default 1)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    size = (args.width, args.width)
    shapes = {
        "uniform": torch.rand(size) * 2 - 1,
        "normal": torch.randn(size),
        "Student t, 3 degrees": torch.distributions.StudentT(3.0).sample(size),
    }
    grads = torch.randn(size) * torch.randn(size).exp()
    rules = [row.variant for row in forms(RULES["weighted_freeze"].name)]
    print("| weights | importance |", " | ".join(rules), "|")
    print("|---|---|" + "---|" * len(rules))
    for shape, weights in shapes.items():
        for importance in METRICS:
            shares = [held(weights, grads, rule, importance) for rule in rules]
            print(f"| {shape} | {importance} |", " | ".join(f"{100 * share:.1f} %" for share in shares), "|")


if __name__ == "__main__":
    main()
