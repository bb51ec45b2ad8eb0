"""What tests of figures share: lines of fairseq's log, and the pictures that were drawn."""

import json

import pytest


def line(kind, update, loss, hydra=False, **more):
    """One line of fairseq's log, by --log-format json."""
    prefix = {"train_inner": "", "train": "train_", "valid": "valid_"}[kind]
    values = {"num_updates": update, "loss": loss, "nll_loss": loss - 1, **more}
    values = {"epoch": 1, "update": 0.5} | {f"{prefix}{name}": str(value) for name, value in values.items()}
    return (f"[2026][{kind}][INFO] - " if hydra else f"2026 | INFO | {kind} | ") + json.dumps(values)


@pytest.fixture
def drawn(monkeypatch):
    """Every picture of a test, to look at its axes: none is closed before the end."""
    from matplotlib import pyplot

    pictures = []
    monkeypatch.setattr(pyplot, "close", pictures.append)
    yield pictures
    monkeypatch.undo()
    pyplot.close("all")
