"""The optimizer row that decays weights in place of the base: cautious weight decay.

It has a factor f(I) of the weight, and leaves the base's step as it is.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .rules import Given, Rule
from .scope import Slot
from .wrapped import WrappedOptimizer


class DecayOptimizer(WrappedOptimizer):
    """Takes over the `weight_decay` of the parameter groups of `base`, by a factor that depends on the base's step.

    The decay of the base is 0 while it steps. With theta' = theta after `base.step()`: theta <- f * theta +
    (theta' - theta). The decay is decoupled whatever the base, and weights outside the slots have none.

    The arguments are those of `GuidedOptimizer`; `method` is `cautious_decay`, or a row of the table.

    Raises:
        ValueError: if a setting has no such value, or if a parameter group of the base has no lr or weight_decay.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import DecayOptimizer, scope_of
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> model.weight.data = torch.tensor([[1.0, -1.0]])
        >>> base = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
        >>> optimizer = DecayOptimizer(base, scope_of(model, "all"))
        >>> model.weight.grad = torch.ones(1, 2)
        >>> optimizer.step()  # moves 1 towards 0, which decays, and -1 away from it
        >>> [round(weight, 4) for weight in model.weight[0].tolist()]
        [0.85, -1.1]
    """

    gives = frozenset(("theta", "step", "eta", "lam"))
    stages = ("update",)

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "cautious_decay",
        *,
        importance: str | None = None,
        start: int = 1,
        seed: int = 1,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, method, importance, seed, base_fused, start=start)
        if any(group.get(key) is None for group in base.param_groups for key in ("lr", "weight_decay")):
            raise ValueError(
                f"{self.rule.label} needs the lr and weight_decay of the base's parameter groups, and "
                f"{type(base).__name__} has none with its settings; choose AdamW as the base"
            )

    def _update(self, active: Sequence[Slot]) -> None:
        if not self.started:
            self._record_statistics([])
            self._step_base()
            return
        settings = {id(p): (group["lr"], group["weight_decay"]) for group in self.param_groups for p in group["params"]}
        sums = []
        for slot, (old, grad) in zip(active, self._step_base_without_decay(active), strict=True):
            theta = old.to(torch.promote_types(old.dtype, torch.float32))
            eta, lam = settings[id(slot.parameter)]
            given = Given(theta=theta, step=slot.weight.to(theta.dtype) - theta, eta=eta, lam=lam)
            factor = self.rule.f.value(theta, given)
            slot.weight.add_((factor - 1) * theta)
            if self.record:
                sums.append((slot, self._block_sums(factor, self._scores(old, grad))))
        self._record_statistics(sums)

    def _step_base_without_decay(self, active: Sequence[Slot]) -> list[tuple[Tensor, Tensor]]:
        """Step the base with a weight decay of 0; returns what `_step_base_and_keep` does."""
        decays = [group["weight_decay"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["weight_decay"] = 0.0
            return self._step_base_and_keep(active)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
