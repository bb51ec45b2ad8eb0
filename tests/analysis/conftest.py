"""What commands that measure on a checkpoint, and figures, are tested with."""

import pytest
from fairseq_runs import Fairseq


@pytest.fixture(scope="session")
def trained(toy_data, tmp_path_factory):
    """A checkpoint of a few updates."""
    runs = Fairseq(toy_data, tmp_path_factory.mktemp("trained"))
    runs.train("run", "--optimizer", "adam", "--max-update", "8")
    return runs.folder / "run/checkpoint_last.pt"


@pytest.fixture
def drawn(monkeypatch):
    """Every picture of a test, to look at its axes: none is closed before the end."""
    from matplotlib import pyplot

    pictures = []
    monkeypatch.setattr(pyplot, "close", pictures.append)
    yield pictures
    monkeypatch.undo()
    pyplot.close("all")
