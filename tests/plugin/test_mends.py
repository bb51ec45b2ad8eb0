"""Each mend of fairseq, at the place that was broken; the commands themselves are tested in tests/e2e."""

import argparse
import contextlib
import copy
import inspect
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.modules import transformer_layer
from fairseq.optim import FP16Optimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq_runs import Fairseq, assert_same, environment
from omegaconf import OmegaConf
from torch import nn

from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.core.scope import catalogue
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin import parameters
from weighted_freezing_fairseq.plugin.mends import checkpoints, registry
from weighted_freezing_fairseq.plugin.optimizers import BASES, base_settings
from weighted_freezing_fairseq.workspace.configs import CONFIGS

HERE = Path(__file__).resolve().parent


# name of a mend: what stock fairseq does, and what it does mended (mend_probes.py)
EFFECTS = {
    "allow_fairseq_checkpoints": ("UnpicklingError", "fconv"),
    "load_without_code": (True, False),  # whether the code was run
    "explain_refused_checkpoints": ("UnpicklingError", "UserError"),
    "refuse_code_in_settings": ("__import__('os')", "UserError"),
    "verify_checksums": (8.0, "UserError"),  # 2.0 with one bit changed
    "drop_copied_weights": (["encoder.layers.0.fc1_weight", "w"], ["w"]),
    "broadcast_checkpoints": ("UnpicklingError", "lr 1"),
    "copy_checkpoints_atomically": (False, True),  # whether the old file is still there
    "hide_known_warnings": (1, 0),
    "accept_second_user_dir": ("ImportError", None),
    "name_invalid_settings": (
        "ConfigKeyError",
        "UserError: unknown setting criterion.sentense_avg: did you mean sentence_avg",
    ),
    "use_bf16_without_tpu": (True, False),  # whether a TPU is used
    "show_every_flag_in_help": (False, True),
    "keep_batches_on_resume": (False, True),
    "stop_readers_at_exit": (True, False),  # whether the thread still reads
    "wrap_cpu_models": ("ValueError", "DistributedDataParallel"),
    "gather_predictions": ([True, "TypeError"], [False, [[1, 2]]]),
    "unscale_once_under_amp": (1 / 128, 1.0),
    "skip_overflows_on_cpu": ("AssertionError", 0.0),
    "name_nonfinite_module": ("StopIteration", "FloatingPointError"),
    "avoid_broken_fast_path": ("AttributeError", False),
}
NEEDS_NO_GPU = {"gather_predictions", "skip_overflows_on_cpu"}
OLD = registry.Versions(torch=(2, 4, 1), fairseq=(0, 12, 2))
NEW = registry.Versions(torch=(2, 13, 0), fairseq=(0, 12, 3))
MIXED = registry.Versions(torch=(2, 6, 0), fairseq=(0, 12, 2), torch_xla=True)


@pytest.fixture(scope="module")
def effects():
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import mend_probes; mend_probes.main()"
    process = Fairseq(HERE, HERE).python("-c", code, env={**environment(), "WFF_MENDS": "none"})
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def test_every_mend_has_a_probe():
    # What is left is tested by a whole training below.
    assert registry.MENDS.keys() - EFFECTS.keys() == {"stop_at_max_update"}


@pytest.mark.slow
@pytest.mark.parametrize("name", EFFECTS)
def test_a_mend_alone_changes_what_stock_fairseq_does(name, effects):
    if name in NEEDS_NO_GPU and torch.cuda.is_available():
        pytest.skip("stock fairseq fails where there is no GPU")
    if registry.MENDS[name].need.holds(registry.Versions.installed()):
        assert effects[name] == list(EFFECTS[name])
    else:
        assert effects[name][1] == EFFECTS[name][1]


@pytest.mark.parametrize(
    ("versions", "not_needed"),
    [
        (OLD, {"broadcast_checkpoints", "drop_copied_weights", "keep_batches_on_resume"}),
        (NEW, {"load_without_code", "avoid_broken_fast_path"}),
        (MIXED, {"load_without_code", "drop_copied_weights", "keep_batches_on_resume", "use_bf16_without_tpu"}),
    ],
)
def test_the_versions_that_need_a_mend(versions, not_needed):
    needed = {name for name, entry in registry.MENDS.items() if entry.need.holds(versions)}
    assert registry.MENDS.keys() - needed == not_needed


@pytest.mark.filterwarnings("ignore:You are using:FutureWarning")  # torch before 2.6
def test_the_predicates_agree_with_the_installed_versions(tmp_path, capsys):
    installed = registry.Versions.installed()
    assert torch.__version__.startswith(".".join(map(str, installed.torch)))
    assert not installed.torch_xla
    fast_path = "can_use_fastpath" in inspect.getsource(transformer_layer)
    assert registry.MENDS["avoid_broken_fast_path"].need.holds(installed) == fast_path
    assert registry.MENDS["drop_copied_weights"].need.holds(installed) != fast_path
    torch.save(Code(), tmp_path / "with_code.pt")
    with contextlib.suppress(pickle.UnpicklingError):
        torch.load(tmp_path / "with_code.pt")
    runs_code = bool(capsys.readouterr().out)
    assert registry.MENDS["broadcast_checkpoints"].need.holds(installed) != runs_code


def test_a_reason_is_one_sentence_that_fits_a_line():
    for entry in registry.MENDS.values():
        assert 20 < len(entry.reason) <= 120 and not entry.reason.endswith("."), entry.name


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, registry.MENDS.keys()),
        ("", registry.MENDS.keys()),
        ("none", set()),
        ("verify_checksums", {"verify_checksums"}),
        (" wrap_cpu_models , verify_checksums,", {"wrap_cpu_models", "verify_checksums"}),
    ],
)
def test_the_variable_selects_mends(setting, names):
    assert registry.selected(setting) == names


@pytest.mark.parametrize("setting", ["verify_checksum", "wrap_cpu_models,NONE", "none,wrap_cpu_models"])
def test_an_unknown_mend_is_an_error_that_lists_the_names(setting):
    with pytest.raises(UserError, match=f"WFF_MENDS={setting}: unknown mend (verify_checksum|NONE|none);") as caught:
        registry.selected(setting)
    assert all(name in str(caught.value) for name in registry.MENDS) and "unset WFF_MENDS" in str(caught.value)


SELECTED = """
import json, weighted_freezing_fairseq
weighted_freezing_fairseq.register()
from weighted_freezing_fairseq.plugin import mends
print(json.dumps({entry["name"]: entry["state"] for entry in mends.report()}))
"""


def test_only_the_selected_mends_are_applied_and_what_protects_is_named(fairseq: Fairseq):
    variables = {**environment(), "WFF_MENDS": "use_bf16_without_tpu,verify_checksums"}
    output = fairseq.python("-c", SELECTED, env=variables).communicate()[0]
    names = {state: set() for state in ("applied", "left out", "not needed")}
    for name, state in json.loads(output.splitlines()[-1]).items():
        names[state].add(name)
    assert names["applied"] == {"use_bf16_without_tpu", "verify_checksums"}
    installed = registry.Versions.installed()
    assert names["not needed"] == {n for n, entry in registry.MENDS.items() if not entry.need.holds(installed)}
    assert "WFF_MENDS leaves out what protects against unsafe checkpoints: " in output
    assert "refuse_code_in_settings" in output.splitlines()[-2] and "verify_checksums" not in output.splitlines()[-2]


def test_an_unknown_mend_stops_fairseq_before_anything_is_registered(fairseq: Fairseq):
    output = fairseq.train("run", "--max-update", 1, env={**environment(), "WFF_MENDS": "nonesuch"}, ok=False)
    assert "UserError: WFF_MENDS=nonesuch: unknown mend nonesuch" in output.splitlines()[-1]
    assert "Traceback" not in output
    output = fairseq.train("run", env={**environment(), "WFF_MENDS": "nonesuch", "WFF_TRACEBACK": "1"}, ok=False)
    assert "Traceback" in output and "errors.UserError: WFF_MENDS=nonesuch" in output


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


TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=30, sentences=4, length=8)


def a_trainer(*settings):
    """A real trainer of a tiny model, and a batch."""
    sample, task = synthetic(TINY, seed=1)
    return subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, task, settings).trainer, sample


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # fairseq's own
@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ("weighted_freeze", []),
        ("sage", []),
        ("fish_mask", ["fish_density=0.05", "fish_updates=2"]),
        ("lfr_cm", ["lfr_quantile=0.5", "fisher=FISHER"]),
    ],
)
@pytest.mark.parametrize("memory_efficient", [True, False])
def test_an_overflow_on_a_cpu_skips_the_update_of_every_row(row, settings, memory_efficient, tmp_path):
    weights = {entry.name: torch.rand(p.shape) for entry, p in catalogue(a_trainer()[0].get_model())}
    snapshot.save(tmp_path / "fisher.pt", "fisher", weights)
    settings = [f"optimizer.{each}".replace("FISHER", str(tmp_path / "fisher.pt")) for each in settings]
    trainer, sample = a_trainer(
        f"optimizer._name={row}", *settings, "common.fp16=true", f"common.memory_efficient_fp16={memory_efficient}",
        "common.fp16_no_flatten_grads=true", f"common.fp16_init_scale={2 ** 22}",
    )  # fmt: skip
    guided = trainer.optimizer.optimizer

    def state():
        return copy.deepcopy([dict(trainer.get_model().state_dict()), guided.state_dict(), [*trainer.optimizer.params]])

    before, skipped = state(), 0
    while trainer.train_step([sample]) is None:
        skipped += 1
        assert trainer.optimizer.scaler.loss_scale == 2 ** (22 - skipped)
        assert_same(state(), before)
        assert trainer.get_num_updates() == guided.updates == 0 and not guided.recorded
    assert 2 <= skipped < 22 and guided.updates == 1
    for _ in range(3):
        trainer.train_step([sample])
    assert guided.updates == trainer.get_num_updates() == 4
    assert not all(map(torch.equal, before[0].values(), trainer.get_model().state_dict().values()))


def not_finite_forward(module, inputs, output):
    return output / 0


def not_finite_backward(module, inputs, output):
    return output + (output * 0).abs().sqrt()  # whose derivative at 0 is infinite


@pytest.mark.filterwarnings("ignore")  # fairseq's own
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (not_finite_forward, r"Inf .* forward pass, in the output of decoder\.layers\.0\.fc1\."),
        (not_finite_backward, r"NaN .* backward pass of decoder\.layers\.0\.fc1,"),
    ],
)
def test_gradients_that_are_not_finite_end_the_run_with_the_module_and_what_to_try(fault, words, precision, tmp_path):
    half = ["common.fp16=true", "common.fp16_no_flatten_grads=true", "common.fp16_init_scale=1"]
    half += ["common.min_loss_scale=0.6"]
    trainer, sample = a_trainer(f"checkpoint.save_dir={tmp_path}", *(half if precision == "fp16" else []))
    trainer.consolidate_optimizer()
    trainer.train_step([sample])
    trainer.get_model().decoder.layers[0].fc1.register_forward_hook(fault)
    with pytest.raises(FloatingPointError, match=words) as caught:
        trainer.train_step([sample])
    for flag in ("--lr", "--clip-norm", "--warmup-updates", "--fp16-scale-window", "data"):
        assert flag in str(caught.value)
    assert (tmp_path / "crash.pt").is_file()


@pytest.mark.filterwarnings("ignore")  # fairseq's own
def test_a_learning_rate_that_is_too_large_names_the_module(tmp_path):
    trainer, sample = a_trainer(f"checkpoint.save_dir={tmp_path}", "optimization.lr=[1e38]")
    with pytest.raises(FloatingPointError, match=r"output of encoder\.\S+\. .* lower --lr"):
        for _ in range(4):
            trainer.train_step([sample])


def test_allow_list_holds_data_classes_only():
    classes = [c[0] if isinstance(c, tuple) else c for c in checkpoints.safe_classes()]
    assert argparse.Namespace in classes
    for cls in classes:
        assert cls.__module__.split(".")[0] in ("argparse", "fairseq", "numpy")


class Code:
    """Unpickling this prints."""

    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.skipif(torch.__version__ < "2.6", reason="makes torch behave as before 2.6")
def test_fairseq_alone_loads_without_code_where_torch_would_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as torch before 2.6 is
    monkeypatch.setattr(checkpoint_utils, "torch", torch)
    before = dict(os.environ)
    torch.save({"model": {}, "code": Code()}, tmp_path / "with_code.pt")
    checkpoints.load_without_code()
    with pytest.raises(UserError, match="was not loaded: it holds something other than tensors"):
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


def test_a_run_that_reached_max_update_makes_no_more_when_it_is_started_again(fairseq: Fairseq):
    flags = ["--optimizer", "adam", "--max-update"]
    fairseq.train("run", *flags, 3)
    last = fairseq.folder / "run/checkpoint_last.pt"
    finished = last.read_bytes()
    again = fairseq.train("run", *flags, 3)
    assert f"{last} is at update 3 already: --max-update 3 leaves nothing to train; raise it to continue" in again
    assert "done training" in again and last.read_bytes() == finished
    others = {**environment(), "WFF_MENDS": ",".join(registry.MENDS.keys() - {"stop_at_max_update"})}
    shutil.copytree(fairseq.folder / "run", fairseq.folder / "stock")
    assert "leaves nothing to train" not in fairseq.train("stock", *flags, 3, env=others)
    assert fairseq.checkpoint("stock")["optimizer_history"][-1]["num_updates"] == 4
    for name, more, updates in (("run", [], 5), ("other", ["--restore-file", last], 6)):
        fairseq.train(name, *flags, 5, *more)
        assert fairseq.checkpoint(name)["optimizer_history"][-1]["num_updates"] == updates


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("row", "setting", "more"), [("fish_mask", "fish_density", {}), ("lfr_cm", "lfr_quantile", {"fisher": "unread.pt"})]
)
@pytest.mark.parametrize("value", [0, 5])
def test_a_share_of_the_weights_that_is_no_fraction_names_the_flag(row, setting, more, value):
    from fairseq.optim import build_optimizer

    model = a_model()
    cfg = settings(_name=row, base_optimizer="sgd", **{setting: value}, **more).optimizer
    flag = f"--{setting.replace('_', '-')}"
    with parameters.published(model), pytest.raises(UserError, match=f"{flag} .*at most 1, got {value}; type {flag} 0"):
        build_optimizer(cfg, list(model.parameters()))


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
