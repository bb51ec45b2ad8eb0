"""Optimizer rows that judge the base's step after it is made: cautious updates, MoFO, Magma.

The factor -g(I) reads the step, or the momentum that the base has after it. It scales the change of a whole tensor.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .masks import stream_key, uniform
from .rules import ALIGNMENT_BETA, Given, Rule, alignment
from .scope import Slot
from .wrapped import WrappedOptimizer

MOMENTUM = "momentum"  # the metric of a row that scores a number by the momentum of the base
MOMENTUM_KEYS = ("exp_avg", "momentum_buffer")  # in the state of Adam and its like, and of SGD


class AfterStepOptimizer(WrappedOptimizer):
    """Scales the step that `base` has made by a factor that depends on the step, or on the base's momentum.

    With theta' = theta after `base.step()`: theta <- theta + -g * (theta' - theta), so that g = 0 also undoes weight
    decay. The base's momentum goes on where nothing moves.

    Args:
        method: `cautious`, `mofo` or `magma`, or a row of the table.
        eps: added to the share by which the factors of cautious are divided.
        fraction: for mofo: share of the numbers of each tensor that is updated, those with the largest |momentum|, or
            with the largest `importance`. For magma: probability of a tensor to be updated.

    The other arguments are those of `GuidedOptimizer`.

    Raises:
        ValueError: if a setting has no such value; in the first step, if the row reads a momentum and the base keeps
            none.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import AfterStepOptimizer, scope_of
        >>> model = torch.nn.Linear(8, 2)
        >>> base = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> optimizer = AfterStepOptimizer(base, scope_of(model), "mofo", fraction=0.25)
        >>> before = model.weight.detach().clone()
        >>> model(torch.randn(4, 8)).sum().backward()
        >>> optimizer.step()
        >>> int((model.weight != before).sum())  # a quarter of 16 weights
        4
    """

    gives = frozenset(("step", "grad", "momentum", "alignment", "coin", "fraction", "eps"))
    stages = ("update",)

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "cautious",
        *,
        variant: str = "",
        importance: str | None = None,
        start: int = 1,
        seed: int = 1,
        eps: float = 1e-12,
        fraction: float | None = None,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, method, importance, seed, base_fused, variant, start)
        if eps < 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        self.eps = eps
        self.fraction = self._checked_fraction(fraction)
        self.alignments: dict[str, Tensor] = {}  # one number a slot

    def _update(self, active: Sequence[Slot]) -> None:
        sums = []
        for slot, (old, grad) in zip(active, self._step_base_and_keep(active), strict=True):
            scores = self._scores_of(slot, old, grad)
            factor = self._factor(slot, old, grad, scores).expand(slot.shape)  # magma has one for the tensor
            if self.record:
                sums.append((slot, self._block_sums(factor, scores)))
            weight = slot.weight
            weight.copy_(torch.lerp(old.to(factor.dtype), weight.to(factor.dtype), factor))  # exact for 0 and 1
        self._record_statistics(sums)

    def _factor(self, slot: Slot, old: Tensor, grad: Tensor, scores: Tensor) -> Tensor:
        """-g(I) for a slot that the base has moved from `old`."""
        dtype = scores.dtype
        grad = grad.to(dtype)
        quantities: dict[str, Any] = {"step": slot.weight.to(dtype) - old.to(dtype), "grad": grad}
        quantities |= {"eps": self.eps, "fraction": self.fraction}
        if "momentum" in self.rule.needs:
            quantities["momentum"] = self._momentum(slot)
        if "alignment" in self.rule.needs:
            quantities["alignment"] = self._next_alignment(slot, grad).to(dtype)
        if "coin" in self.rule.needs:
            quantities["coin"] = uniform(1, stream_key(self.seed, self.updates, slot.name), device=grad.device)
        return -self.rule.g.value(scores, Given(**quantities))

    def _scores_of(self, slot: Slot, old: Tensor, grad: Tensor) -> Tensor:
        """I of a slot after the base's step; `old` and `grad` are from before it."""
        return self._momentum(slot).abs() if self.importance == MOMENTUM else self._scores(old, grad)

    def _momentum(self, slot: Slot) -> Tensor:
        """The momentum of a slot in the base's state, at least in float32."""
        state = self.base.state[slot.parameter]
        momentum = next((state[key] for key in MOMENTUM_KEYS if state.get(key) is not None), None)
        if momentum is None:
            raise ValueError(
                f"{self.rule.name} reads a momentum ({' or '.join(MOMENTUM_KEYS)}), and {type(self.base).__name__} "
                "keeps none with its settings; choose Adam as the base, or SGD with momentum 0.9"
            )
        return slot.part(momentum).to(torch.promote_types(momentum.dtype, torch.float32))

    def _next_alignment(self, slot: Slot, grad: Tensor) -> Tensor:
        """The average of the alignment of a slot's momentum and gradient, with this update's, which is kept."""
        momentum = self._momentum(slot)
        new = alignment(momentum, grad.to(momentum.dtype))
        old = self.alignments.get(slot.name, new)
        self.alignments[slot.name] = ALIGNMENT_BETA * old + (1 - ALIGNMENT_BETA) * new
        return self.alignments[slot.name]

    # State.

    def _method_state(self) -> dict[str, Any]:
        return {"alignments": dict(self.alignments)} if self.alignments else {}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        alignments = {slot: state.get("alignments", {}).get(slot.name) for slot in self.slots}
        self.alignments = {s.name: a.to(s.parameter.device, copy=True) for s, a in alignments.items() if a is not None}

    @property
    def extra_bytes(self) -> int:
        """Bytes of the averages of alignments."""
        return sum(alignment.numel() * alignment.element_size() for alignment in self.alignments.values())
