"""Data sets: corpora in `DATASETS`, labelled sentences in `SENTENCES`, their prepared folders, and the manifests.

`wff prepare` makes the folders. Training, evaluation and reports read these tables and the manifests. Importing this
package loads neither torch nor fairseq.
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
from .own import ANY_OWN
from .pawsx import PAWSX
from .recipe import MANY, OWN, Dataset
from .sentences import OWN_SENTENCES, SentenceData
from .wmt17 import WMT17
from .xglue import XGLUE
from .xnli import XNLI

DATASETS: Mapping[str, Dataset] = MappingProxyType({data.name: data for data in (IWSLT14, WMT17, MULTI30K, ANY_OWN)})
SENTENCES: Mapping[str, SentenceData] = MappingProxyType(
    {data.name: data for data in (GLUE, XNLI, PAWSX, XGLUE, OWN_SENTENCES)}
)
NAMES = (*DATASETS, *SENTENCES)


def lowercases(dataset: str, recipe: str) -> bool:
    """Whether a recipe lowercases its text; then lowercased BLEU is the score to compare."""
    return dataset in DATASETS and recipe in DATASETS[dataset].table and DATASETS[dataset].table[recipe].lowercased


def prepared(data: Path, recipe: str, pair: str) -> Path:
    """The folder of one pair, made by `wff prepare ... --out DATA`."""
    return data / recipe / pair


def read_manifest(folder: Path) -> Content:
    """The manifest of a prepared folder."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"there is no {path}; type: {prepare_command(*folder.parts[-3:])} --out {folder.parents[1]}")
    return manifest_of(folder)


def prepare_command(data: str, recipe: str, pair: str) -> str:
    """The command that makes a folder DATA/RECIPE/PAIR; DATA is the name of the data set unless the user changed it."""
    if data == OWN_SENTENCES.name:
        return f"wff prepare {data} --name {pair} --train FILE --text COLUMN --label COLUMN --encoder DIR"
    with_task = [name for name, sentence_data in SENTENCES.items() if pair in sentence_data.tasks]
    if with_task:
        name = data if data in with_task else with_task[0]
        return f"wff prepare {name} --tasks {pair} --archive FILES --encoder DIR"
    if data == OWN and pair.startswith(f"{MANY}-"):
        pairs = [f"{source}-{pair.partition('-')[2]}" for source in "AB"]
        return f"wff prepare own --name {recipe} --pairs {','.join(pairs)} --train {pairs[0]}=FILES {pairs[1]}=FILES"
    if data == OWN:
        return f"wff prepare own --name {recipe} --pair {pair} --train FILES"
    return f"wff prepare {data if data in DATASETS else 'DATASET'} --pairs {pair} --recipe {recipe}"
