"""Checkpoints of fairseq as files."""

import subprocess
import sys

import torch
from fairseq.logging.meters import AverageMeter

from weighted_freezing_fairseq.workspace.checkpoints import read_settings

WITHOUT_FAIRSEQ = """
import sys
from pathlib import Path
from weighted_freezing_fairseq.workspace.checkpoints import read_settings
print(read_settings(Path(sys.argv[1]))["task"]["data"], "fairseq" in sys.modules)
"""


def test_settings_are_read_without_fairseq(trained, toy_data):
    """Which takes seconds to import."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_FAIRSEQ, trained], capture_output=True, text=True, check=True)
    assert done.stdout == f"{toy_data} False\n"


def test_settings_beside_meters_of_an_older_fairseq(tmp_path):
    torch.save(
        {"cfg": {"task": {"data": "x"}}, "extra_state": {"train_meters": {"loss": AverageMeter()}}}, tmp_path / "c.pt"
    )
    assert read_settings(tmp_path / "c.pt") == {"task": {"data": "x"}}
