"""Optimizer state for only those numbers of a parameter that are inside a mask.

The base optimizer holds one short vector in place of each compressed parameter: parameter[positions], the numbers
inside the mask. Since the base is elementwise, its step on the vector is its step on the parameter at these positions.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

# Names of classes. Not elementwise are Adafactor (rows and columns), LAMB and LARS (norms of whole tensors).
ELEMENTWISE = frozenset(
    ("SGD", "NAG", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop")
)
# A number inside the mask costs a position (8 bytes) and a copy; one outside saves its state and the time to update it.
_MAX_DENSITY = 0.5


def is_elementwise(base: torch.optim.Optimizer) -> bool:
    """Whether `base` updates every number independently of the others."""
    return type(base).__name__ in ELEMENTWISE


def is_worth_compressing(parameter: Tensor, mask: Tensor) -> bool:
    """Whether the mask of a parameter is sparse enough to compress it."""
    return parameter.is_contiguous() and mask.numel() > 0 and int(mask.sum()) <= _MAX_DENSITY * mask.numel()


class CompressedState:
    """Replaces parameters of `base` by vectors of the numbers inside their masks.

    masks: the mask of each parameter to compress. groups: the parameter groups with the original parameters, for
    callers; options set there are copied to the base before each step.
    """

    def __init__(self, base: torch.optim.Optimizer, masks: Mapping[Tensor, Tensor]) -> None:
        self.base = base
        self.groups = [dict(group) for group in base.param_groups]
        self._compressed: list[tuple[Tensor, Tensor, nn.Parameter]] = []  # parameter, positions, vector
        for group in base.param_groups:
            group["params"] = [self._compress(p, masks[p]) if p in masks else p for p in group["params"]]

    def _compress(self, parameter: Tensor, mask: Tensor) -> nn.Parameter:
        """The vector that replaces a parameter; its state in the base becomes that of the vector."""
        positions = mask.view(-1).nonzero().view(-1)
        vector = nn.Parameter(parameter.detach().view(-1)[positions])
        self._compressed.append((parameter, positions, vector))
        if parameter in self.base.state:
            self.base.state[vector] = {
                key: value.view(-1)[positions]
                if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step"
                else value
                for key, value in self.base.state.pop(parameter).items()
            }
        return vector

    @property
    def tensors(self) -> list[Tensor]:
        """The positions and vectors, which take memory in addition to the base's state."""
        return [tensor for _, *tensors in self._compressed for tensor in tensors]

    def load_options(self) -> None:
        """Copy options (learning rate, weight decay, ...) from the base, after it loaded a state."""
        for group, base_group in zip(self.groups, self.base.param_groups, strict=True):
            group.update({key: value for key, value in base_group.items() if key != "params"})

    def step(self, step_base: Callable[[], None]) -> None:
        """Call `step_base` with current options, numbers and gradients in the base, and copy the numbers back."""
        for group, base_group in zip(self.groups, self.base.param_groups, strict=True):
            base_group.update({key: value for key, value in group.items() if key != "params"})
        # index_select and scatter_ take half as long as indexing and its assignment on a CPU.
        active = [entry for entry in self._compressed if entry[0].grad is not None and len(entry[1])]
        for parameter, positions, vector in active:
            assert parameter.grad is not None
            torch.index_select(parameter.detach().view(-1), 0, positions, out=vector.detach())
            vector.grad = parameter.grad.reshape(-1).index_select(0, positions)
        step_base()
        for parameter, positions, vector in active:
            parameter.detach().view(-1).scatter_(0, positions, vector.detach())
            vector.grad = None
