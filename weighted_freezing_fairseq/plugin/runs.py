"""Builds a training run from its YAML in this process, for measurements on several runs side by side.

The files are those of fairseq-hydra-train; sweeps and output folders of Hydra are not supported.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fairseq import tasks
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq.trainer import Trainer
from omegaconf import DictConfig, OmegaConf


def load_config(path: Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The complete settings of a run, as fairseq-hydra-train resolves them; overrides are `section.key=value`."""
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg = OmegaConf.merge(cfg, OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
    add_defaults(cfg)
    with omegaconf_no_object_check():
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def build_trainer(cfg: DictConfig, task: Any = None) -> Trainer:
    """The trainer of a run, with a newly initialised model."""
    task = tasks.setup_task(cfg.task) if task is None else task
    return Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))


def placeholder_dictionary(size: int) -> Dictionary:
    """A dictionary of `size` words that have no meaning, for models without data."""
    dictionary = Dictionary()
    for index in range(size - len(dictionary)):
        dictionary.add_symbol(f"word{index}")
    return dictionary


def translation_task(vocabulary: int) -> TranslationTask:
    """A translation task without data; both languages share a dictionary of `vocabulary` words."""
    words = placeholder_dictionary(vocabulary)
    return TranslationTask(OmegaConf.structured(TranslationConfig()), words, words)
