"""The norms of the inputs of linear layers, from their forward passes (Sun M. et al. 2023, section 3), for `wanda`.

A hook sees only a layer that is called. Attention may pass the weights of its layers to one function instead; such a
layer is an error, never an input of norm 0.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class NoInputsError(ValueError):
    """The inputs of a weight cannot be measured."""


class InputNorms:
    """||X_j||_2 of each input j of the layers whose weights are `parameters`.

    X_j has a value for each position of each call of the layer between `begin` and `norms`, on all processes.

    Raises:
        NoInputsError: if a parameter is not the weight of a `torch.nn.Linear` in `model`.
    """

    # DEVIATION: Sun M. et al. measure on full sequences of text, without padding. Here positions of padding count like
    # all others, since a layer does not know which they are; batches hold sentences of similar length.

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        layers: dict[Tensor, list[nn.Linear]] = defaultdict(list)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                layers[module.weight].append(module)
        self._sums: dict[str, Tensor] = {}  # of the squares of each input, and at last the number of calls
        self._recording = False
        for name, parameter in parameters.items():
            if parameter not in layers:
                raise NoInputsError(
                    f"pruning by wanda needs the inputs of {name}, which is not the weight of a torch.nn.Linear in the "
                    "model; prune by another method, such as magnitude"
                )
            outputs, inputs = parameter.shape
            self._sums[name] = torch.zeros(inputs + 1, dtype=torch.float32, device=parameter.device)
            for layer in layers[parameter]:
                layer.register_forward_pre_hook(partial(self._record, name), with_kwargs=True)

    def begin(self, recording: bool = True) -> None:
        """Forget recorded passes, and record the next ones if `recording`."""
        self._recording = recording
        for sums in self._sums.values():
            sums.zero_()

    @torch.no_grad()
    def _record(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._recording:
            return
        x: Tensor = args[0] if args else kwargs["input"]
        sums = self._sums[name]
        sums[:-1] += x.detach().reshape(-1, x.shape[-1]).float().square().sum(0)
        sums[-1] += 1

    def norms(self) -> dict[str, Tensor]:
        """The norm of each input, (units in,), by the name of the weight; NoInputsError if a layer has none."""
        if not self._recording:
            raise NoInputsError(
                "pruning by wanda measures inputs from begin_update on; call it before the passes of every update"
            )
        for sums in self._sums.values():
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(sums)
        uncalled = [name for name, sums in self._sums.items() if not sums[-1]]
        if uncalled:
            raise NoInputsError(
                f"pruning by wanda needs the inputs of {uncalled[0]}, but its layer was not called: it was left out at "
                "random, or its weight was passed to a function; prune by another method, such as magnitude"
            )
        return {name: sums[:-1].sqrt() for name, sums in self._sums.items()}
