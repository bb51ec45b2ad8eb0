"""These tests import fairseq into the test process; its own warnings are not ours to mend."""

import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import fairseq_cli.train
    from fairseq.trainer import Trainer

import weighted_freezing_fairseq.plugin  # noqa: F401

from in_process import Here  # isort: skip


@pytest.fixture
def here(toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    runs = Here(toy_data, tmp_path)

    def create(*args: object, **kwargs: object) -> Trainer:
        runs.trainer = Trainer(*args, **kwargs)
        runs.trainer.listeners += runs.more_listeners
        return runs.trainer

    monkeypatch.setattr(fairseq_cli.train, "Trainer", create)
    return runs
