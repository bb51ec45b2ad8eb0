"""The state of a base optimizer, held only for the numbers that a mask lets move.

Invariant: between two steps the base holds one short vector for each compressed parameter, and state of its shape;
whole[positions] are the numbers that move, and all others are those of the start; a step of the base on the short
vector is its step on the whole parameter at these positions, since it treats every number by itself.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

# Optimizers that treat every number by itself, so that a vector of some of them is updated as they would be in place.
# Not among them: Adafactor (rows and columns), LAMB and LARS (norms of whole tensors).
ELEMENTWISE = frozenset(
    ("SGD", "NAG", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop", "Rprop")
)
# A number that moves costs a position (8 bytes) and a copy more, one that does not saves its state and its time.
_COMPRESSED_UP_TO = 0.5


def is_elementwise(base: torch.optim.Optimizer) -> bool:
    """Whether `base` treats every number by itself."""
    return type(base).__name__ in ELEMENTWISE


def is_worth_compressing(parameter: Tensor, mask: Tensor) -> bool:
    """Whether so few numbers of a parameter move that a vector of these is smaller."""
    return parameter.is_contiguous() and mask.numel() > 0 and int(mask.sum()) <= _COMPRESSED_UP_TO * mask.numel()


class CompressedState:
    """A base optimizer that holds, of the parameters in `keep`, only the numbers that their masks let move.

    groups: what a caller sees, with the whole parameters; options set there reach the base before each step.
    """

    def __init__(self, base: torch.optim.Optimizer, keep: Mapping[Tensor, Tensor]) -> None:
        self.base = base
        self.groups = [dict(group) for group in base.param_groups]
        self._vectors: list[tuple[Tensor, Tensor, nn.Parameter]] = []  # whole parameter, positions, short one
        for group in base.param_groups:
            group["params"] = [self._shortened(p, keep[p]) if p in keep else p for p in group["params"]]

    def _shortened(self, whole: Tensor, mask: Tensor) -> nn.Parameter:
        """The numbers that move, with what the base remembers of them."""
        positions = mask.view(-1).nonzero().view(-1)
        short = nn.Parameter(whole.detach().view(-1)[positions])
        self._vectors.append((whole, positions, short))
        if whole in self.base.state:
            self.base.state[short] = {
                key: value.view(-1)[positions]
                if isinstance(value, Tensor) and value.shape == whole.shape and key != "step"
                else value
                for key, value in self.base.state.pop(whole).items()
            }
        return short

    @property
    def tensors(self) -> list[Tensor]:
        """What is held beside the base's state: positions and copies of what moves."""
        return [tensor for _, *more in self._vectors for tensor in more]

    def take_options_of_base(self) -> None:
        """Learning rate and the like, after the base loaded them."""
        for mine, theirs in zip(self.groups, self.base.param_groups, strict=True):
            mine.update({key: value for key, value in theirs.items() if key != "params"})

    def give_options_to_base(self) -> None:
        """Learning rate and the like, before the base needs them."""
        for mine, theirs in zip(self.groups, self.base.param_groups, strict=True):
            theirs.update({key: value for key, value in mine.items() if key != "params"})

    def step(self, step_base: Callable[[], None]) -> None:
        """One step of the base on the short parameters.

        By index_select and scatter_, which take half of the time of whole[positions] and its assignment on a CPU.
        """
        moving = [vector for vector in self._vectors if vector[0].grad is not None and len(vector[1])]
        for whole, positions, short in moving:
            assert whole.grad is not None
            torch.index_select(whole.detach().view(-1), 0, positions, out=short.detach())
            short.grad = whole.grad.reshape(-1).index_select(0, positions)
        step_base()
        for whole, positions, short in moving:
            whole.detach().view(-1).scatter_(0, positions, short.detach())
            short.grad = None
