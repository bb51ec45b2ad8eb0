"""Each mend of fairseq, at the place that was broken; the commands themselves are tested in tests/e2e."""

import argparse
import copy
import os
import resource
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import FP16Optimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from omegaconf import OmegaConf
from torch import nn

from weighted_freezing_fairseq.plugin import compat, parameters
from weighted_freezing_fairseq.plugin.optimizers import BASES, base_settings


def settings(**optimizer):
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = {"_name": "weighted_freeze", "lr": [0.1], "seed": 1, "log_interval": 1, "tpu": False, **optimizer}
    return cfg


def an_optimizer(kind, model, **optimizer):
    with warnings.catch_warnings(), parameters.published(model):
        warnings.simplefilter("ignore")
        return kind.build_optimizer(settings(**optimizer), list(model.parameters()))


def a_model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def test_amp_unscales_once():
    model, plain = a_model(), a_model()
    amp = an_optimizer(AMPOptimizer, model, base_optimizer="sgd", importance_start=100)
    amp._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0)  # fairseq's own needs a GPU
    amp.backward(model(torch.ones(3, 4)).sum())
    amp.clip_grad_norm(0.0)
    amp.step()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain(torch.ones(3, 4)).sum().backward()
    sgd.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_overflow_skips_the_update_and_touches_nothing(bad):
    model = a_model().half()
    cfg = settings(base_optimizer="sgd")
    cfg.common.fp16 = cfg.common.fp16_no_flatten_grads = True
    with parameters.published(model):
        fp16 = FP16Optimizer.build_optimizer(cfg, list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    next(model.parameters()).grad[0, 0] = bad
    fp16._needs_sync = True
    before = copy.deepcopy(list(model.parameters()))
    with pytest.raises(OverflowError):
        fp16.clip_grad_norm(0.0)
    assert fp16.fp32_optimizer.optimizer.updates == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_allow_list_holds_data_classes_only():
    classes = [c[0] if isinstance(c, tuple) else c for c in compat.safe_classes()]
    assert argparse.Namespace in classes
    for cls in classes:
        assert cls.__module__.split(".")[0] in ("argparse", "fairseq", "numpy")


class Code:
    """Unpickling this prints."""

    def __reduce__(self):
        return print, ("code of the file was run",)


def test_fairseq_alone_loads_without_code_where_torch_would_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as torch before 2.6 is
    monkeypatch.setattr(checkpoint_utils, "torch", torch)
    before = dict(os.environ)
    torch.save({"model": {}, "code": Code()}, tmp_path / "with_code.pt")
    compat.load_without_code()
    with pytest.raises(RuntimeError, match="was not loaded: it holds something other than tensors"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "with_code.pt"))
    torch.save(torch.ones(2), tmp_path / "plain.pt")
    assert checkpoint_utils.torch.load(tmp_path / "plain.pt").sum() == 2
    assert not capsys.readouterr().out
    with pytest.warns(UserWarning, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load(tmp_path / "with_code.pt")
    assert capsys.readouterr().out and dict(os.environ) == before


def test_a_copied_checkpoint_is_whole_or_the_old_one(tmp_path):
    from fairseq.file_io import PathManager

    new, last = tmp_path / "checkpoint_1_10.pt", tmp_path / "checkpoint_last.pt"
    new.write_bytes(b"new" * 10_000)
    last.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the disk is full in the middle of the copy
    try:
        with pytest.raises(OSError):
            PathManager.copy(str(new), str(last), True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert last.read_bytes() == b"old"
    PathManager.copy(str(new), str(last), True)
    assert last.read_bytes() == new.read_bytes() and not list(tmp_path.glob("*.part"))


READS_AHEAD = """
import torch
from fairseq.data.iterators import BufferedIterator
import weighted_freezing_fairseq.plugin

class Endless:
    def __len__(self):
        return 10**9
    def __iter__(self):
        while True:
            yield torch.rand(100).sort()

batches = BufferedIterator({size}, Endless())
next(batches)
print("done")
"""


@pytest.mark.parametrize("size", [2, 10**6], ids=["full buffer", "busy reader"])
def test_a_command_ends_well_while_batches_are_read_ahead(size):
    code = READS_AHEAD.format(size=size)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_another_user_dir_is_loaded_as_ever(tmp_path):
    from fairseq import utils

    (tmp_path / "my_own_plugin").mkdir()
    (tmp_path / "my_own_plugin/__init__.py").write_text("LOADED = True\n")
    utils.import_user_module(argparse.Namespace(user_dir=str(tmp_path / "my_own_plugin")))
    import my_own_plugin

    assert my_own_plugin.LOADED


def test_every_base_of_fairseq_is_offered_with_its_settings():
    assert {"adam", "sgd", "nag", "adamax", "adagrad", "adadelta", "adafactor"} <= set(BASES)
    assert base_settings("sgd")["momentum"][:2] == (float, 0.0)
    assert base_settings("nag")["momentum"][1] == 0.99
    assert base_settings("adafactor")["beta1"][1] is None


@pytest.mark.parametrize("base", ["adam", "adamax", "sgd", "nag", "adagrad", "adadelta", "adafactor"])
def test_base_keeps_its_own_defaults_and_takes_ours(base):
    from fairseq.optim import OPTIMIZER_REGISTRY, build_optimizer

    model = a_model()
    with parameters.published(model):
        default = build_optimizer(settings(base_optimizer=base).optimizer, list(model.parameters()))
        decayed = build_optimizer(settings(base_optimizer=base, weight_decay=0.5).optimizer, list(model.parameters()))
    assert type(default.base) is OPTIMIZER_REGISTRY[base]
    plain = base_settings(base)["weight_decay"][1]
    assert default.optimizer_config["weight_decay"] == plain and decayed.optimizer_config["weight_decay"] == 0.5
    assert decayed.param_groups[0]["weight_decay"] == 0.5
    assert default.supports_flat_params == default.base.supports_flat_params
    assert not default.supports_step_with_scale and not default.supports_groups
