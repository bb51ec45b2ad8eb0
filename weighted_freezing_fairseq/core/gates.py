"""Hard-concrete gates (Louizos et al. 2018): a random factor in [0, 1] for each weight, learnt with the weight.

The parameter log alpha of a gate sets the probabilities that the gate is exactly 0 or exactly 1. The expected number of
gates above 0 is a differentiable approximation of the L0 norm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .masks import stream_key, uniform
from .scope import Slot

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # temperature and stretch of Louizos et al. section 4.1
_OPEN = math.log(0.95 / 0.05)  # log alpha at the start: nearly every gate is open


def sampled(log_alpha: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gates z from uniform numbers u in (0, 1], and dz / d log alpha (Louizos et al. eq. 10 and 11).

    s = sigmoid((log u - log(1 - u) + log alpha) / beta), z = s (zeta - gamma) + gamma, clipped to [0, 1].
    """
    s = ((u.logit(eps=1e-7) + log_alpha) / BETA).sigmoid()
    stretched = s * (ZETA - GAMMA) + GAMMA
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), (ZETA - GAMMA) / BETA * s * (1 - s) * inside


def typical(log_alpha: Tensor) -> Tensor:
    """The gate of evaluation, without sampling (Louizos et al. eq. 13)."""
    return (log_alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) (Louizos et al. eq. 12); its sum is the expected L0 norm."""
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()


class Gates:
    """Gates of the weights in `slots`: theta, the weights without gates, and log alpha, which Adam trains.

    Between updates a weight is theta times its typical gate. `open` makes it theta times sampled gates for the passes
    of an update. The optimizer steps on theta, between `before_step` and `after_step`. The penalty is `strength` times
    the mean of `open_probability` over all weights. model_slots: the model's own weights, if `slots` are copies.
    """

    # DEVIATION: Louizos et al. weigh the expected number of open gates by lambda / N, with N the number of examples.
    # Here the loss is a mean over tokens and the penalty a mean over gates, so that the same strength suits models of
    # every size.

    def __init__(
        self, slots: Sequence[Slot], model_slots: Sequence[Slot], strength: float, lr: float, seed: int
    ) -> None:
        self.slots, self.model_slots, self.strength, self.seed = slots, model_slots, strength, seed
        self.theta = {slot.name: slot.weight.clone() for slot in slots}
        self.log_alpha = {
            slot.name: torch.full(slot.shape, _OPEN, dtype=torch.float32, device=slot.parameter.device)
            for slot in slots
        }
        self._count = sum(map(len, slots))
        self._adam = torch.optim.Adam(self.log_alpha.values(), lr=lr)
        self._sampled: int | None = None  # the update whose gates are in the weights; None: typical gates

    @property
    def kept_tensors(self) -> list[Tensor]:
        """The tensors that gates keep in memory."""
        moments = [t for state in self._adam.state.values() for key, t in state.items() if key != "step"]
        return [*self.theta.values(), *self.log_alpha.values(), *moments]

    @property
    def penalty(self) -> Tensor:
        """The value of the penalty. It has no gradient: `before_step` adds that of log alpha."""
        total = torch.stack([open_probability(log_alpha).sum() for log_alpha in self.log_alpha.values()]).sum()
        return self.strength * total / self._count

    def _sample(self, slot: Slot, update: int) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha[slot.name]
        key = stream_key(self.seed, update, f"gates of {slot.name}")
        return sampled(log_alpha, uniform(len(slot), key, device=log_alpha.device).view(slot.shape))

    @torch.no_grad()
    def open(self, masks: Mapping[str, Tensor], update: int) -> None:
        """Apply sampled gates to the model's weights, the same in every pass of an update."""
        if self._sampled == update:
            return
        for slot in self.model_slots:
            slot.weight.copy_(_masked(self.theta[slot.name] * self._sample(slot, update)[0], masks, slot))
        self._sampled = update

    @torch.no_grad()
    def close(self, masks: Mapping[str, Tensor]) -> None:
        """Apply typical gates if an update was skipped after `open`, because its gradients overflowed."""
        if self._sampled is not None:
            self._apply_typical(self.model_slots, masks)

    def _apply_typical(self, slots: Sequence[Slot], masks: Mapping[str, Tensor]) -> None:
        for slot in slots:
            slot.weight.copy_(_masked(self.theta[slot.name] * typical(self.log_alpha[slot.name]), masks, slot))
        self._sampled = None

    @torch.no_grad()
    def before_step(self, update: int, scale: float) -> None:
        """Turn the gradient of gated weights, times `scale`, into those of theta and log alpha; step log alpha."""
        for slot in self.slots:
            log_alpha, theta = self.log_alpha[slot.name], self.theta[slot.name]
            z, slope = self._sample(slot, update)
            p = open_probability(log_alpha)
            log_alpha.grad = p * (1 - p) * (self.strength / self._count)
            if slot.grad is not None:
                log_alpha.grad.add_(slot.grad.float() * theta * slope, alpha=1 / scale)
                slot.grad.mul_(z)
            slot.weight.copy_(theta)
        self._adam.step()

    @torch.no_grad()
    def after_step(self, masks: Mapping[str, Tensor]) -> None:
        """Copy theta from the optimizer, and apply typical gates."""
        for slot in self.slots:
            self.theta[slot.name].copy_(_masked(slot.weight, masks, slot))
        self._apply_typical(self.slots, masks)

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {"theta": dict(self.theta), "log_alpha": dict(self.log_alpha), "adam": self._adam.state_dict()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        for name, theta in self.theta.items():
            theta.copy_(state["theta"][name])
            self.log_alpha[name].copy_(state["log_alpha"][name])
        self._adam.load_state_dict(state["adam"])


def _masked(tensor: Tensor, masks: Mapping[str, Tensor], slot: Slot) -> Tensor:
    return tensor * masks[slot.name] if slot.name in masks else tensor
