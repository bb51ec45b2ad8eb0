"""Data sets: corpora in `DATASETS`, labelled sentences in `SENTENCES`, where a prepared one is, and its manifest.

`wff prepare` makes the folders; training, evaluation and reports read these tables and the manifest, and know no data
set by name. Importing this package loads neither torch nor fairseq.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import UserError
from .glue import GLUE
from .iwslt14 import IWSLT14
from .multi30k import MULTI30K
from .recipe import Dataset
from .sentences import SentenceData
from .wmt17 import WMT17
from .xnli import XNLI

DATASETS: Mapping[str, Dataset] = MappingProxyType({data.name: data for data in (IWSLT14, WMT17, MULTI30K)})
SENTENCES: Mapping[str, SentenceData] = MappingProxyType({data.name: data for data in (GLUE, XNLI)})
MANIFEST = "manifest.json"


def prepared(data: Path, recipe: str, pair: str) -> Path:
    """The folder in which `wff prepare ... --out DATA` leaves one pair."""
    return data / recipe / pair


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `folder` holds and how it was made."""
    path = folder / MANIFEST
    if not path.is_file():
        recipe, pair = folder.parent.name, folder.name
        name = folder.parents[1].name
        if name in SENTENCES:
            raise UserError(
                f"there is no {path}; type: wff prepare {name} --tasks {pair} --archive FILES --encoder DIR "
                f"--out {folder.parents[1]}"
            )
        name = name if name in DATASETS else "DATASET"
        raise UserError(
            f"there is no {path}; type: wff prepare {name} --pairs {pair} --recipe {recipe} --out {folder.parents[1]}"
        )
    return json.loads(path.read_text(encoding="utf-8"))
