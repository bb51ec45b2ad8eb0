"""Hard-concrete gates (Louizos et al. 2018): a random factor from 0 to 1 for each weight, learnt beside it.

A gate is exactly 0 or exactly 1 with a probability that its log alpha decides; the expected number of open gates is a
smooth stand-in for the L0 norm. Left out on purpose: which gates are then closed for good (`pruning.py`), and groups of
weights behind one gate.
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

    s = sigmoid((log u - log(1 - u) + log alpha) / beta), z = s (zeta - gamma) + gamma, cut to [0, 1].
    """
    s = ((u.logit(eps=1e-7) + log_alpha) / BETA).sigmoid()
    stretched = s * (ZETA - GAMMA) + GAMMA
    inside = (stretched > 0) & (stretched < 1)
    return stretched.clamp(0, 1), (ZETA - GAMMA) / BETA * s * (1 - s) * inside


def typical(log_alpha: Tensor) -> Tensor:
    """The gate that stands for all samples once training is over (Louizos et al. eq. 13)."""
    return (log_alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) (Louizos et al. eq. 12); its sum is the expected L0 norm."""
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()


class Gates:
    """Gates of the weights in `slots`: theta, the weights without gates, and log alpha, trained by an Adam of its own.

    Between updates a weight is theta times its typical gate. `open` makes it theta times sampled gates for the passes
    of one update; the optimizer's step is made on theta (`before_step`, `after_step`). The penalty is `strength` times
    the mean of `open_probability` over all weights.
    """

    # DEVIATION: Louizos et al. weigh the expected number of open gates by lambda / N, N the size of the data. Here the
    # loss is a mean over tokens and the penalty the mean over gates, so that a strength serves models of every size.

    def __init__(self, slots: Sequence[Slot], seen: Sequence[Slot], strength: float, lr: float, seed: int) -> None:
        self.slots, self.seen, self.strength, self.seed = slots, seen, strength, seed
        self.theta = {slot.name: slot.weight.clone() for slot in slots}
        self.log_alpha = {
            slot.name: torch.full(slot.shape, _OPEN, dtype=torch.float32, device=slot.parameter.device)
            for slot in slots
        }
        self._count = sum(map(len, slots))
        self._adam = torch.optim.Adam(self.log_alpha.values(), lr=lr)
        self._sampled: int | None = None  # the update whose gates the weights hold now

    @property
    def held(self) -> list[Tensor]:
        """What it keeps in memory."""
        moments = [t for state in self._adam.state.values() for key, t in state.items() if key != "step"]
        return [*self.theta.values(), *self.log_alpha.values(), *moments]

    @property
    def penalty(self) -> Tensor:
        """Its value; its gradient reaches log alpha in the optimizer's step."""
        total = torch.stack([open_probability(log_alpha).sum() for log_alpha in self.log_alpha.values()]).sum()
        return self.strength * total / self._count

    def _gates(self, slot: Slot, update: int) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha[slot.name]
        key = stream_key(self.seed, update, f"gates of {slot.name}")
        return sampled(log_alpha, uniform(len(slot), key, device=log_alpha.device).view(slot.shape))

    @torch.no_grad()
    def open(self, masks: Mapping[str, Tensor], update: int) -> None:
        """Put sampled gates on what forward and backward passes see; every pass of one update has the same."""
        if self._sampled == update:
            return
        for slot in self.seen:
            slot.weight.copy_(_masked(self.theta[slot.name] * self._gates(slot, update)[0], masks, slot))
        self._sampled = update

    @torch.no_grad()
    def close(self, masks: Mapping[str, Tensor]) -> None:
        """Typical gates again, where an update was opened and never made: its gradients had overflown."""
        if self._sampled is not None:
            self._put_typical(self.seen, masks)

    def _put_typical(self, slots: Sequence[Slot], masks: Mapping[str, Tensor]) -> None:
        for slot in slots:
            slot.weight.copy_(_masked(self.theta[slot.name] * typical(self.log_alpha[slot.name]), masks, slot))
        self._sampled = None

    @torch.no_grad()
    def before_step(self, update: int, scale: float) -> None:
        """Turn the gradient of gated weights, which is `scale` times too large, into those of theta and log alpha."""
        for slot in self.slots:
            log_alpha, theta = self.log_alpha[slot.name], self.theta[slot.name]
            z, slope = self._gates(slot, update)
            p = open_probability(log_alpha)
            log_alpha.grad = p * (1 - p) * (self.strength / self._count)
            if slot.grad is not None:
                log_alpha.grad.add_(slot.grad.float() * theta * slope, alpha=1 / scale)
                slot.grad.mul_(z)
            slot.weight.copy_(theta)
        self._adam.step()

    @torch.no_grad()
    def after_step(self, masks: Mapping[str, Tensor]) -> None:
        """Take theta from the optimizer, and put typical gates on the weights."""
        for slot in self.slots:
            self.theta[slot.name].copy_(_masked(slot.weight, masks, slot))
        self._put_typical(self.slots, masks)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"theta": dict(self.theta), "log_alpha": dict(self.log_alpha), "adam": self._adam.state_dict()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        for name, theta in self.theta.items():
            theta.copy_(state["theta"][name])
            self.log_alpha[name].copy_(state["log_alpha"][name])
        self._adam.load_state_dict(state["adam"])


def _masked(tensor: Tensor, masks: Mapping[str, Tensor], slot: Slot) -> Tensor:
    return tensor * masks[slot.name] if slot.name in masks else tensor
