"""The cases of a measurement: sizes with a varied number, and methods with their variants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import UserError
from ..workspace.configs import config_path
from .subjects import SIZES, Size

# Methods with changed settings: variants of a method, modes of its passes, and the baselines that methods are compared
# with (`plugin/bench_baselines.py`). Each is the method of a YAML, and overrides of its settings.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "adamw_of_torch": ("standard", "optimizer._name=adamw_of_torch"),
    "alignreg_frobenius": ("alignreg", "criterion.alignreg=frobenius"),
    "intra_distillation_loop": ("intra_distillation", "criterion.pass_mode=loop"),
    "intra_distillation_plain": ("intra_distillation", "criterion._name=intra_distillation_plain"),
    "intra_distillation_recompute": ("intra_distillation", "criterion.pass_mode=recompute"),
    "r_drop_of_fairseq": (
        "standard",
        "criterion._name=label_smoothed_cross_entropy_with_rdrop",
        "criterion.rdrop_alpha=5",
    ),
    "sage_bf16": ("sage", "optimizer.sage_state_dtype=bf16"),
    "sage_light": ("sage", "optimizer.sage_variant=light"),
}
SIZE_NUMBERS = tuple(field.name for field in fields(Size))
_OTHER_NUMBERS = ("passes", "processes")  # can be varied, too


@dataclass(frozen=True)
class Case:
    """A size to measure, with the value of the varied number.

    Args:
        name: the name of the size and the value in tables.
        varied: the name of the varied number, if any.
    """

    name: str
    size: Size
    varied: str = ""
    value: int | None = None

    @property
    def passes(self) -> int | None:
        """The number K of passes; None for the number in the YAML."""
        return self.value if self.varied == "passes" else None

    @property
    def processes(self) -> int:
        """The number of processes that average their gradients."""
        return (self.value or 1) if self.varied == "processes" else 1


def cases(sizes: Sequence[str], vary: str | None) -> list[Case]:
    """A case for each size and each value of `vary`, which is NAME=A,B."""
    if vary is None:
        return [Case(size, SIZES[size]) for size in sizes]
    name, _, text = vary.partition("=")
    try:
        values = [int(value) for value in text.split(",")]
    except ValueError:
        values = []
    if name not in (*SIZE_NUMBERS, *_OTHER_NUMBERS) or not values or min(values) < 1:
        raise UserError(
            f"--vary {vary} must be one of {', '.join((*SIZE_NUMBERS, *_OTHER_NUMBERS))} with values of 1 or more; "
            "type --vary vocabulary=4000,12000,40000 or passes=2,3,4"
        )
    return [
        Case(
            f"{size}, {name} {value}",
            SIZES[size] if name in _OTHER_NUMBERS else replace(SIZES[size], **{name: value}),
            name,
            value,
        )
        for size in sizes
        for value in values
    ]


def variant(method: str, folders: Sequence[Path], passes: int | None) -> tuple[Path, list[str]]:
    """The YAML of a method or variant, and overrides of its settings."""
    from omegaconf import OmegaConf

    method, *overrides = VARIANTS.get(method, (method,))
    path = config_path(method, *folders)
    if passes is not None and method == "intra_distillation":
        assert "num_passes" in OmegaConf.load(path).criterion
        overrides.append(f"criterion.num_passes={passes}")
    return path, overrides


def criterion_of(method: str) -> str | None:
    """The criterion of a variant, if it differs from that of the method."""
    overrides = dict(setting.split("=") for setting in VARIANTS.get(method, ("",))[1:])
    return overrides.get("criterion._name")
