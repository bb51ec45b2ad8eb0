"""Merging the differences of workers that trained apart from one model (FISH Mask, Sung et al. 2021).

Each worker updates the numbers inside its mask many times, and what is exchanged is the difference from the model that
all of them started from. Under disjoint masks every number has one worker, and the differences add up; under equal
masks their mean is taken.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .difference import equal_bits, tied
from .snapshot import few, mismatches


def merged(base: Mapping[str, Tensor], tuned: Iterable[Mapping[str, Tensor]], mean: bool) -> dict[str, Tensor]:
    """base + the sum of (tuned - base) over the workers, or its mean.

    Sums are in float64: a number that a single worker changed gets that worker's value unless the two are many orders
    of magnitude apart, and a number that none changed keeps its bits. Tensors that are tied in `base` stay tied.

    Args:
        base: the tensors that all workers started from.
        tuned: those of each worker, which may be read one after the other.
        mean: divide the sum by the number of workers.

    Raises:
        ValueError: a worker has other tensors than `base`, or changed integers.
    """
    sums: dict[str, Tensor] = {}
    workers = 0
    for workers, tensors in enumerate(tuned, 1):
        wrong = mismatches(tensors, [(name, tensor.shape) for name, tensor in base.items()])
        wrong += [f"{name} is new" for name in tensors if name not in base]
        if wrong:
            raise ValueError(f"the model of worker {workers} is not that of the base: {few(wrong)}")
        for names in tied(base):
            start, tensor = base[names[0]], tensors[names[0]]
            if equal_bits(start, tensor):
                continue
            if not (start.is_floating_point() and start.dtype == tensor.dtype):
                raise ValueError(f"worker {workers} changed {names[0]}, which is {tensor.dtype} and cannot be merged")
            difference = torch.where(tensor == start, 0.0, tensor.double() - start.double())  # 0 for two infinities
            sums[names[0]] = sums[names[0]].add_(difference) if names[0] in sums else difference
    result = dict(base)
    for names in tied(base):
        if names[0] in sums:
            start, change = base[names[0]], sums[names[0]] / (workers if mean else 1)
            tensor = torch.where(change == 0, start, (start.double() + change).to(start.dtype))
            result.update(dict.fromkeys(names, tensor))
    return result
