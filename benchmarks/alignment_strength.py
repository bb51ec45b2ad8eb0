"""How much `--criterion alignreg` pulls at a pruned network beside the cross entropy, at strengths of each size.

Of one batch: the size of the alignment term as a share of the cross entropy per token, and the norm of its gradient
over that of the cross entropy, of the matrices that are pruned and with the gradient of what is pruned left out.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from weighted_freezing_fairseq.core.penalties import alignments, quadratic_penalty
from weighted_freezing_fairseq.core.scope import scope_of
from weighted_freezing_fairseq.plugin.trained import Trained

LAMBDAS = (5e-4, 5e-3, 5e-2, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="checkpoint from before pruning")
    parser.add_argument("pruned", type=Path, help="checkpoint that was pruned from it")
    parser.add_argument("--data", type=Path, required=True, help="binarised folder")
    parser.add_argument("--sentences", type=int, default=200, help="of the training set (default 200)")
    args = parser.parse_args()
    start, trained = (Trained.load(path, args.data, "train", "cpu") for path in (args.reference, args.pruned))
    trained.model.eval()
    slots, anchors = scope_of(trained.model), [slot.weight.detach() for slot in scope_of(start.model)]
    thetas = [slot.parameter for slot in slots]

    def value_and_norm(term: Tensor) -> tuple[float, float]:
        grads = torch.autograd.grad(term, thetas)
        squares = [(grad * (theta != 0)).square().sum() for grad, theta in zip(grads, thetas, strict=True)]
        return abs(term.item()), torch.stack(squares).sum().sqrt().item()

    pairs = trained.gold(trained.draw(args.sentences, seed=1)[0])
    tokens = sum(len(pair["target"]) for pair in pairs)
    loss, norm = value_and_norm(-trained.log_likelihoods(pairs).sum() / tokens)
    print(f"cross entropy {loss:.4f} nats a token, norm of its gradient {norm:.4f}\n")
    distances = [quadratic_penalty(theta, None, anchor) for theta, anchor in zip(thetas, anchors, strict=True)]
    for kind, term in (("cosine", alignments(thetas, anchors).mean()), ("frobenius", 2 * torch.stack(distances).sum())):
        size, pull = value_and_norm(term)
        print(f"| lambda | {kind}: share of the loss | its gradient over the cross entropy's |\n|---|---|---|")
        for strength in LAMBDAS:
            share = strength * size / (loss + strength * size)
            print(f"| {strength:g} | {share:.3%} | {strength * pull / norm:.3g} |")
        print()


if __name__ == "__main__":
    main()
