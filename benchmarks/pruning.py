"""How long one pruning step takes: scores and masks of every method on matrices of the iwslt size, half pruned."""

import statistics
import time

import torch

from weighted_freezing_fairseq.core.pruning import METHODS, Layer, scores_of, select

SHAPES = [(512, 512)] * 72 + [(1024, 512)] * 12 + [(512, 1024)] * 12  # transformer_iwslt_de_en, 31.5 M weights
ROUNDS = 3


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    layers = [
        Layer(f"{i}.fc1.weight", *(torch.randn(shape, generator=generator) for _ in range(3)))
        for i, shape in enumerate(SHAPES)
    ]
    for method in METHODS.values():
        seconds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            select(method, scores_of(method, layers), 0.5)
            seconds.append(time.perf_counter() - begun)
        print(f"{method.name:18} {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
