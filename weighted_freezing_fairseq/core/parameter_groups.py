"""Groups of parameters: by the type of their module, and by layer.

The groups follow from names of modules (`ATTENTION`, `FEED_FORWARD`: data) and from types of owners, so that figures of
several models stand side by side. Left out on purpose: which parameters a method acts on (`scope.py`).
"""

import re
from collections.abc import Iterable

from torch import nn

from .scope import Entry

Group = tuple[str, str]  # by what parameters are grouped, and the group

_BY = ("model", "type", "layer")
# Names that modules have in Transformers; a caller may add its own.
ATTENTION = {"self_attn": "self-attention", "encoder_attn": "cross-attention"}
FEED_FORWARD = {"fc1", "fc2"}
OUTPUT = {"output_projection"}


def module_type(entry: Entry) -> str:
    """Its kind of module, in encoder and decoder alike: `self-attention q`, `fc1`, `embedding`, `norm`, `bias` ...

    A matrix with several names goes by the first, and an embedding that is tied to the output projection is an
    embedding. What has no name here keeps its own, without the numbers of layers.
    """
    *path, own = entry.name.split(".")
    module, parent = ("", "", *path)[-1], ("", "", *path)[-2]
    if any(issubclass(owner, nn.LayerNorm) for owner in entry.owners) or re.search(r"layer_?norm", module):
        return "norm"
    if "bias" in own:
        return "bias"
    if any(issubclass(owner, nn.Embedding) for owner in entry.owners):
        return "embedding"
    if module in OUTPUT:
        return "output projection"
    if parent in ATTENTION and module.endswith("_proj"):
        return f"{ATTENTION[parent]} {module.removesuffix('_proj')}"
    if module in FEED_FORWARD:
        return module
    return re.sub(r"\.\d+(?=\.)", "", entry.name)


def layer(entry: Entry) -> str | None:
    """The layer that it lies in, as `encoder.layers.0`; None for what lies outside of all (embeddings, last norms)."""
    found = re.match(r"(.*?\.\d+)\.", entry.name)
    return found and found[1]


def groups_of(entry: Entry) -> list[Group]:
    """The groups that a parameter counts in: the whole model, its type, its layer if it lies in one."""
    own = layer(entry)
    return [("model", "all"), ("type", module_type(entry)), *([("layer", own)] if own else [])]


def in_order(groups: Iterable[Group]) -> list[Group]:
    """The rows of a table: the model, then its types, then its layers, each in the order that they come in."""
    return sorted(groups, key=lambda group: _BY.index(group[0]))
