"""`core` runs in any training loop: it imports no fairseq, and names none."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from weighted_freezing_fairseq import core

FILES = sorted(path for path in Path(core.__file__).parent.iterdir() if path.suffix in (".py", ".c"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_fairseq(path):
    text = path.read_text(encoding="utf-8").replace("weighted_freezing_fairseq", "")
    assert not re.search("fairseq|--(importance|fish|lfr|sage|freeze|fp16|bf16|memory|ddp)", text, re.IGNORECASE)


@pytest.mark.slow
def test_a_guided_step_imports_no_fairseq():
    code = """
import sys, torch
from weighted_freezing_fairseq import GuidedOptimizer, scope_of
model = torch.nn.Linear(2, 2)
optimizer = GuidedOptimizer(torch.optim.AdamW(model.parameters()), scope_of(model))
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
print(any(name.split(".")[0] == "fairseq" for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"
