"""Data sets: corpora in `DATASETS`, labelled sentences in `SENTENCES`, where a prepared one is, and its manifest.

`wff prepare` makes the folders; training, evaluation and reports read these tables and the manifest, and know no data
set by name. Importing this package loads neither torch nor fairseq.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ..errors import UserError
from ..forms import Content
from ..workspace.contents import MANIFEST, manifest_of
from .glue import GLUE
from .iwslt14 import IWSLT14
from .multi30k import MULTI30K
from .recipe import Dataset
from .sentences import SentenceData
from .wmt17 import WMT17
from .xnli import XNLI

DATASETS: Mapping[str, Dataset] = MappingProxyType({data.name: data for data in (IWSLT14, WMT17, MULTI30K)})
SENTENCES: Mapping[str, SentenceData] = MappingProxyType({data.name: data for data in (GLUE, XNLI)})
NAMES = (*DATASETS, *SENTENCES)


def lowercases(dataset: str, recipe: str) -> bool:
    """Whether a recipe lowercases its text, so that its translations compare by lowercased BLEU."""
    return dataset in DATASETS and recipe in DATASETS[dataset].table and DATASETS[dataset].table[recipe].lowercased


def prepared(data: Path, recipe: str, pair: str) -> Path:
    """The folder in which `wff prepare ... --out DATA` leaves one pair."""
    return data / recipe / pair


def read_manifest(folder: Path) -> Content:
    """What `folder` holds and how it was made."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"there is no {path}; type: {_prepare(*folder.parts[-3:])} --out {folder.parents[1]}")
    return manifest_of(folder)


def _prepare(data: str, recipe: str, pair: str) -> str:
    """The command that makes a folder of this name, where a user has not called the data set's folder otherwise."""
    of_task = [name for name, each in SENTENCES.items() if pair in each.tasks]
    if of_task:
        return f"wff prepare {of_task[0]} --tasks {pair} --archive FILES --encoder DIR"
    return f"wff prepare {data if data in DATASETS else 'DATASET'} --pairs {pair} --recipe {recipe}"
