"""What commands that measure on a checkpoint are tested with."""

import pytest
from fairseq_runs import Fairseq


@pytest.fixture(scope="session")
def trained(toy_data, tmp_path_factory):
    """A checkpoint of a few updates."""
    runs = Fairseq(toy_data, tmp_path_factory.mktemp("trained"))
    runs.train("run", "--optimizer", "adam", "--max-update", "8")
    return runs.folder / "run/checkpoint_last.pt"
