"""Which kernels an update gets, where none can be used, and where none may be."""

import sys

import pytest
import torch

from weighted_freezing_fairseq import core
from weighted_freezing_fairseq.core import kernels


def test_without_triton_a_gpu_has_plain_torch(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton_source", "kernels_triton"):
        monkeypatch.delitem(sys.modules, f"weighted_freezing_fairseq.core.{name}", raising=False)
        monkeypatch.delattr(core, name, raising=False)
    assert kernels._triton.__wrapped__() is None
    assert "plain torch, without Triton's kernels" in caplog.text


def test_wff_native_0_means_plain_torch(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("WFF_NATIVE", "0")
    monkeypatch.setattr(kernels, "_triton", lambda: pytest.fail("asked for"))
    assert kernels.module_for([torch.zeros(3)]) is None
    assert kernels.module_for([]) is None
