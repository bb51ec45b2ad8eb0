"""Shared fixtures: a toy corpus binarised by the real fairseq-preprocess, and a folder to run fairseq in."""

import random
import subprocess
from pathlib import Path

import hypothesis
import pytest
import warm_python
from fairseq_runs import Fairseq

hypothesis.settings.register_profile("shared machine", deadline=None)  # an example may wait for a core
hypothesis.settings.load_profile("shared machine")


STARTS_FAIRSEQ = {"fairseq", "toy_data", "trained"}  # fixtures, below


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts fairseq: the tests of tests/e2e, and those with a fixture that does."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "e2e" in item.path.parts or STARTS_FAIRSEQ.intersection(fixtures):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy task: the target is the source, reversed."""
    folder = tmp_path_factory.mktemp("toy")
    rng = random.Random(1)
    for split, count in (("train", 300), ("valid", 20), ("test", 21)):  # 21: no multiple of 8
        lines = [[rng.choice("abcdefghij") for _ in range(rng.randint(3, 9))] for _ in range(count)]
        (folder / f"{split}.x").write_text("".join(" ".join(line) + "\n" for line in lines), encoding="utf-8")
        (folder / f"{split}.y").write_text("".join(" ".join(line[::-1]) + "\n" for line in lines), encoding="utf-8")
    words = ["-s", "x", "-t", "y", "--destdir", folder / "bin", "--workers", 1]
    words += [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / split)]
    Fairseq(folder, folder)("preprocess", *words)
    return folder / "bin"


@pytest.fixture
def fairseq(toy_data: Path, tmp_path: Path) -> Fairseq:
    return Fairseq(toy_data, tmp_path)


@pytest.fixture(scope="session")
def trained(toy_data, tmp_path_factory):
    """A checkpoint of a few updates."""
    runs = Fairseq(toy_data, tmp_path_factory.mktemp("trained"))
    runs.train("run", "--optimizer", "adam", "--max-update", "8")
    return runs.folder / "run/checkpoint_last.pt"


@pytest.fixture
def warm_children(monkeypatch):
    """Commands of Python that the process of the tests starts are forked from a warm one."""
    monkeypatch.setattr(subprocess, "Popen", warm_python.where_python(subprocess.Popen))


@pytest.fixture
def drawn(monkeypatch):
    """Every picture of a test, to look at its axes: none is closed before the end."""
    from matplotlib import pyplot

    pictures = []
    monkeypatch.setattr(pyplot, "close", pictures.append)
    yield pictures
    monkeypatch.undo()
    pyplot.close("all")
