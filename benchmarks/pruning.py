"""What pruning and alignment take on matrices of the iwslt size, by themselves: each pruning step, and each update.

An update's alignment is its value and its gradient, added to one that is there; its masks are those of gradients and
weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from weighted_freezing_fairseq.core import kernels_c
from weighted_freezing_fairseq.core.penalties import alignments, quadratic_penalty
from weighted_freezing_fairseq.core.pruning import METHODS, Layer, scores_of, select

SHAPES = [(512, 512)] * 72 + [(1024, 512)] * 12 + [(512, 1024)] * 12  # transformer_iwslt_de_en, 31.5 M weights


def seconds(work: Callable[[], object], rounds: int) -> str:
    """Median and range of a few rounds after one that is not counted."""
    found = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return f"{statistics.median(found[1:]):.3f} s [{min(found[1:]):.3f}, {max(found[1:]):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=15, help="of an update; a fifth as many pruning steps (default 15)"
    )
    rounds = parser.parse_args().rounds
    generator = torch.Generator().manual_seed(1)
    layers = [
        Layer(f"{i}.fc1.weight", *(torch.randn(shape, generator=generator) for _ in range(3)))
        for i, shape in enumerate(SHAPES)
    ]
    print("a pruning step")
    for method in METHODS.values():
        print(
            f"  {method.name:18} {seconds(lambda m=method: select(m, scores_of(m, layers), 0.5), max(1, rounds // 5))}"
        )

    weights = [nn.Parameter(layer.weight) for layer in layers]
    references = [torch.randn(shape, generator=generator) for shape in SHAPES]
    masks = [torch.rand(shape, generator=generator) < 0.5 for shape in SHAPES]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    print("an update")
    print(f"  {'cosine':18} {seconds(lambda: alignments(weights, references).mean().backward(), rounds)}")
    distance = lambda: sum(quadratic_penalty(w, None, r) for w, r in zip(weights, references, strict=True))  # noqa: E731
    print(f"  {'frobenius':18} {seconds(lambda: distance().backward(), rounds)}")
    both = [(t, mask) for weight, mask in zip(weights, masks, strict=True) for t in (weight.detach(), weight.grad)]
    print(f"  {'masks':18} {seconds(lambda: kernels_c.mask_(both), rounds)}")


if __name__ == "__main__":
    main()
