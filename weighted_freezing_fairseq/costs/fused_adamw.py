"""The fastest plain Adam there is, torch's fused AdamW, for `wff bench` to measure the guided steps against.

fairseq offers it on no CPU, and on a GPU only apex's, where that is installed. Left out on purpose: everything that is
not measured; whoever wants to train so gives it to `GuidedOptimizer`. Importing this registers it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

NAME = "adamw_of_torch"


@register_optimizer(NAME, dataclass=FairseqAdamConfig)
class FusedAdamW(FairseqAdam):
    """`--optimizer adam` with another implementation of the same step."""

    def __init__(self, cfg: Any, params: Iterable[torch.Tensor]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)
