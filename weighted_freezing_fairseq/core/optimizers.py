"""Which optimizer class applies a row of the table: the one that gives what the row needs, at its stage."""

from .after_step import AfterStepOptimizer
from .decay import DecayOptimizer
from .fixed import FixedMaskOptimizer
from .guided import GuidedOptimizer
from .layers import DrawnLayersOptimizer
from .rules import Rule
from .soft_mask import SoftMaskOptimizer
from .wrapped import WrappedOptimizer

OPTIMIZERS: tuple[type[WrappedOptimizer], ...] = (
    GuidedOptimizer,
    SoftMaskOptimizer,
    AfterStepOptimizer,
    DecayOptimizer,
    DrawnLayersOptimizer,
    FixedMaskOptimizer,
)


def class_of(rule: Rule) -> type[WrappedOptimizer]:
    """The class that applies an optimizer row."""
    return next(optimizer for optimizer in OPTIMIZERS if optimizer.applies(rule))
