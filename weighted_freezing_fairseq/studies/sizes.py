"""The sizes of a training on own files: a folder of YAMLs each, configs/own/SIZE, chosen by the number of pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data import read_manifest
from ..data.recipe import OWN
from ..errors import UserError
from ..workspace.configs import CONFIGS
from ..workspace.contents import split_pairs
from ..workspace.progress import say
from ..workspace.runs import PROVENANCE, read_provenance

AUTO = "auto"
SIZES: Mapping[str, int] = {"tiny": 0, "small": 20_000, "base": 200_000}  # each from this number of training pairs on


def configs_of(size: str) -> Path:
    """The folder of the YAMLs of a size."""
    return CONFIGS / OWN / size


def size_of(configs: Path) -> str | None:
    """The size whose folder of YAMLs `configs` is; None: it is another folder."""
    return next((size for size in SIZES if configs == configs_of(size)), None)


def range_of(size: str) -> str:
    """The numbers of training pairs that a size is for, in words."""
    least, above = SIZES[size], [number for number in SIZES.values() if number > SIZES[size]]
    if not above:
        return f"{least:,} training pairs or more"
    return f"{least:,} to {above[0]:,} training pairs" if least else f"fewer than {above[0]:,} training pairs"


def configs_for(size: str | None, folders: Sequence[Path]) -> Path:
    """The YAMLs of `size` (None: of the one for the prepared corpora in `folders`); prints the size and the reason."""
    reason = "by --size"
    if size in (None, AUTO):
        pairs = {folder: split_pairs(read_manifest(folder))["train"] for folder in folders}
        sizes = [_size_for(number) for number in pairs.values()]
        if len(set(sizes)) > 1:
            needs = ", ".join(f"{folder.name} {number:,}" for folder, number in pairs.items())
            raise UserError(
                f"a matrix is trained with one size, and its pairs need several (training pairs: {needs}); type --size "
                + " or --size ".join(dict.fromkeys(sizes))
            )
        size, reason = sizes[0], ", ".join(f"{number:,} training pairs" for number in pairs.values())
    say(f"size {size}: {reason}")
    return configs_of(size)


def refuse_other_configs(configs: Path, folder: Path) -> None:
    """Raise UserError if one of the runs in `folder`, which are those of one corpus, has another size than `configs`.

    A run by YAMLs of no size is refused beside one that has a size; runs by two such folders are the user's affair.
    """
    size = size_of(configs)
    for path in sorted(folder.glob(f"*/{PROVENANCE}")):
        about = read_provenance(path.parent)
        other, other_configs = about.get("size"), (CONFIGS.parent / about["config"]).parent
        if other == size or other_configs == configs:
            continue
        here = f"size {size}" if size else f"the YAMLs in {configs}"
        there = f"size {other}" if other else f"the YAMLs in {other_configs}"
        option = f"--size {other}" if other else f"--configs {other_configs}"
        raise UserError(
            f"{path.parent} was trained with {there}, and runs of {here} beside it would not be comparable; "
            f"type {option}, or for {here} --out runs/{f'{OWN}-{size}' if size else configs.name}"
        )


def _size_for(pairs: int) -> str:
    return [size for size, least in SIZES.items() if pairs >= least][-1]
