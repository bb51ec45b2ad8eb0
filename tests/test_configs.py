"""Every YAML of the repository becomes a trainer: no name, option or value in it is unknown."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from weighted_freezing_fairseq.analysis import bench
from weighted_freezing_fairseq.configs import CONFIGS

FOLDERS = {"adapt": 4, "iwslt14": 2, "prune": 1, "toy": 9}
YAMLS = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))


def test_the_folders_are_those_that_the_readme_knows():
    assert {folder: sum(path.parts[0] == folder for path in YAMLS) for folder in FOLDERS} == FOLDERS
    assert len(YAMLS) == sum(FOLDERS.values())


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_yaml_is_a_training(path: Path):
    config = CONFIGS / path
    wanted = OmegaConf.load(config)
    assert config.read_text(encoding="utf-8").startswith("# "), "a header says what is compared, and after which paper"
    more = (
        ["criterion.alignreg=frobenius", "criterion.prune=lamp"]
        if OmegaConf.is_missing(wanted.criterion, "prune")
        else []
    )
    size = bench.SIZES["toy"]
    subject = bench.subject_of(path.stem, config, size, "cpu", 1, bench.synthetic(size, seed=1)[1], more)
    made = subject.trainer.cfg
    for section in ("criterion", "optimizer", "lr_scheduler"):
        assert made[section]._name == wanted[section]._name
    assert made.optimization.max_update == wanted.optimization.max_update
    assert subject.trainer.criterion is not None
