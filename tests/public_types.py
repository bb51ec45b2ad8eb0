"""What a type checker tells users of this package: mypy checks this file (pyproject.toml), and nothing runs it."""

from typing import assert_type

from torch import nn, optim

from weighted_freezing_fairseq import GuidedOptimizer, scope_of


def wrap(model: nn.Module, optimizer: optim.Optimizer) -> None:
    assert_type(GuidedOptimizer(optimizer, scope_of(model), "sage", seed=1), GuidedOptimizer)
    # Without its types the name would be Any, and mypy would call this comment superfluous.
    GuidedOptimizer(optimizer, scope_of(model), "sage", no_such_option=1)  # type: ignore[call-arg]
