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


def refuse_other_size(size: str, folder: Path) -> None:
    """Raise UserError if one of the runs in `folder`, which are those of one corpus, has another size."""
    for path in sorted(folder.glob(f"*/{PROVENANCE}")):
        other = read_provenance(path.parent).get("size", size)
        if other != size:
            raise UserError(
                f"{path.parent} was trained with size {other}, and runs of size {size} beside it would not be "
                f"comparable; type --size {other}, or for size {size} --out runs/{OWN}-{size}"
            )


def _size_for(pairs: int) -> str:
    return [size for size, least in SIZES.items() if pairs >= least][-1]
