"""Time pruning steps, and alignment and masks of an update, on matrices of the iwslt size without a model.

Alignment is timed with its backward pass. Masks are applied to weights and gradients.
"""

import argparse
import statistics
import timeit
from collections.abc import Callable

import torch
from torch import nn

from weighted_freezing_fairseq.core import kernels_c
from weighted_freezing_fairseq.core.penalties import alignments, quadratic_penalty
from weighted_freezing_fairseq.core.pruning import METHODS, Averages, Layer, scores_of, select

SHAPES = [(512, 512)] * 72 + [(1024, 512)] * 12 + [(512, 1024)] * 12  # transformer_iwslt_de_en, 31.5 M weights


def seconds(work: Callable[[], object], rounds: int) -> str:
    """Median and range over `rounds`, after a round to warm up."""
    durations = timeit.repeat(work, number=1, repeat=rounds + 1)[1:]
    return f"{statistics.median(durations):.3f} s [{min(durations):.3f}, {max(durations):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=15, help="for an update; a fifth of them for a pruning step (default 15)"
    )
    rounds = parser.parse_args().rounds
    generator = torch.Generator().manual_seed(1)
    layers = [
        Layer(
            f"{i}.fc1.weight",
            *(torch.randn(shape, generator=generator) for _ in range(3)),
            torch.rand(shape[1], generator=generator),
            Averages(*(torch.rand(shape, generator=generator) for _ in range(2))),
        )
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
    masked = [(t, mask) for weight, mask in zip(weights, masks, strict=True) for t in (weight.detach(), weight.grad)]
    print(f"  {'masks':18} {seconds(lambda: kernels_c.mask_(masked), rounds)}")


if __name__ == "__main__":
    main()
