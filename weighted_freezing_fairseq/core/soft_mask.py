"""The optimizer row whose factors were measured on an old task: SPG (Konishi et al. 2023)."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .guided import GuidedOptimizer
from .rules import Rule, soft_mask
from .scope import Slot
from .snapshot import few, fingerprint, mismatches


class SoftMaskOptimizer(GuidedOptimizer):
    """Scales the updates of `base` by 1 - gamma, which is small for weights that mattered on an old task.

    Args:
        method: `spg`, or a row of the table.
        fisher: Fisher information of the old task, for each slot by name. A state remembers which it was.

    The other arguments are those of `GuidedOptimizer`.

    Around Adam and its like, stage `gradient` has next to no effect, because the factors do not change and cancel in
    the step; use stage="update".

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import SoftMaskOptimizer, scope_of
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> model.weight.data = torch.zeros(1, 3)
        >>> fisher = {"weight": torch.tensor([[0.0, 2.0, 4.0]])}
        >>> base = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> optimizer = SoftMaskOptimizer(base, scope_of(model, "all"), fisher=fisher)
        >>> model.weight.grad = -torch.ones(1, 3)
        >>> optimizer.step()  # 1 - tanh(sqrt(I / 2))
        >>> [round(weight, 4) for weight in model.weight[0].tolist()]
        [1.0, 0.2384, 0.1116]
    """

    gives = frozenset(("gamma",))

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "spg",
        *,
        fisher: Mapping[str, Tensor],
        importance: str | None = None,
        stage: Literal["gradient", "update"] | None = None,
        start: int = 1,
        seed: int = 1,
        base_fused: bool = True,
    ) -> None:
        super().__init__(
            base, slots, method, importance=importance, stage=stage, start=start, seed=seed, base_fused=base_fused
        )
        if wrong := mismatches(fisher, [(slot.name, slot.shape) for slot in self.slots]):
            raise ValueError(f"fisher is of another model: {few(wrong)}; measure it on the model of the slots")
        self.gammas: dict[str, Tensor] = {}  # of each slot, flat
        for slot in self.slots:
            dtype = torch.promote_types(slot.parameter.dtype, torch.float32)
            self.gammas[slot.name] = soft_mask(fisher[slot.name]).flatten().to(slot.parameter.device, dtype)
        self.fisher_fingerprint = fingerprint({slot.name: fisher[slot.name] for slot in self.slots})

    def _quantities(self, slot: Slot, at: int, scores: Tensor) -> dict[str, Any]:
        gamma = self.gammas[slot.name][at : at + scores.numel()]
        return {"gamma": gamma.view(scores.shape).to(scores.dtype)}

    def _method_state(self) -> dict[str, Any]:
        return {"fisher": self.fisher_fingerprint}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if state.get("fisher", self.fisher_fingerprint) != self.fisher_fingerprint:
            raise ValueError("this state was saved with another Fisher information than this run's")

    @property
    def extra_bytes(self) -> int:
        """Bytes of gamma."""
        return sum(gamma.numel() * gamma.element_size() for gamma in self.gammas.values())
