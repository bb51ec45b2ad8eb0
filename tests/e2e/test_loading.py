"""Every way to load the plugin, in every fairseq command; and which checkpoints load."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq_runs import TOY_YAML, USER_DIR, Fairseq, assert_same, environment

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.plugin.trained import shape_of
from weighted_freezing_fairseq.workspace.processes import USER_DIR as PRINTED

WF = ["--optimizer", "weighted_freeze", "--max-update", "2"]


@pytest.fixture
def cold(toy_data: Path, tmp_path: Path) -> Fairseq:
    """For what depends on who imports what first."""
    return Fairseq(toy_data, tmp_path, warm=False)


@pytest.mark.parametrize(
    "way",
    ["absolute", "relative", "slash", "link", "imported before", "another copy imported before", "registered before"],
)
def test_train_loads_the_plugin(fairseq: Fairseq, cold: Fairseq, way: str, tmp_path: Path):
    """Where the plugin comes after fairseq, as in every command, from a Python that has imported fairseq."""
    variables = environment()
    user_dir = {"slash": f"{USER_DIR}/", "imported before": str(PRINTED)}.get(way, str(USER_DIR))
    code = "from fairseq_cli.train import cli_main; cli_main()"
    if way == "relative":
        user_dir = os.path.relpath(USER_DIR, fairseq.folder)
    elif way == "link":
        (tmp_path / "weighted_freezing_fairseq").symlink_to(USER_DIR)
        user_dir = str(tmp_path / "weighted_freezing_fairseq")
    elif way == "imported before":
        code = "import weighted_freezing_fairseq; " + code
    elif way == "another copy imported before":
        shutil.copytree(USER_DIR, tmp_path / "site/weighted_freezing_fairseq")
        variables["PYTHONPATH"] = str(tmp_path / "site")
        code = "import weighted_freezing_fairseq; " + code
        user_dir = str(PRINTED)
    elif way == "registered before":
        code = "import weighted_freezing_fairseq; weighted_freezing_fairseq.register(); " + code
    words = [code, *fairseq.train_words("run", *WF, plugin=False), "--user-dir", user_dir]
    process = (cold if way.endswith("before") else fairseq).python("-c", *words, env=variables)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    assert fairseq.checkpoint("run")["last_optimizer_state"]["guided"]["updates"] == 2


IMPORT_CHANGES_NOTHING = """
import os, sys
def state():
    registries = {} if "fairseq" not in sys.modules else {
        name: list(value["registry"]) for name, value in sys.modules["fairseq.registry"].REGISTRIES.items()
    }
    return list(sys.meta_path), list(sys.path), list(sys.path_hooks), dict(os.environ), registries
before, modules = state(), set(sys.modules)
import weighted_freezing_fairseq as package
assert state() == before
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert not new & {"torch", "fairseq", "numpy"}, new
assert not [name for name in sys.modules if name.startswith(package.__name__ + ".")]
print("unchanged with fairseq" if "fairseq" in sys.modules else "unchanged", end="")
"""


def test_the_import_of_the_package_changes_nothing(fairseq: Fairseq):
    done = subprocess.run([sys.executable, "-c", IMPORT_CHANGES_NOTHING], capture_output=True, text=True, timeout=60)
    assert done.stdout == "unchanged", done.stderr
    code = "import fairseq.optim, fairseq.criterions\n" + IMPORT_CHANGES_NOTHING
    assert fairseq.python("-c", code).communicate()[0] == "unchanged with fairseq"


REGISTER = """
import importlib.util, sys
import weighted_freezing_fairseq
assert importlib.util.find_spec("fairseq") and "fairseq" not in sys.modules
weighted_freezing_fairseq.register()
from fairseq import options
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.trainer import Trainer
kept = dict(OPTIMIZER_REGISTRY), Trainer.train_step, options.parse_args_and_arch
weighted_freezing_fairseq.register()
assert "weighted_freeze" in OPTIMIZER_REGISTRY
assert (dict(OPTIMIZER_REGISTRY), Trainer.train_step, options.parse_args_and_arch) == kept
sys.modules["renamed"] = renamed = importlib.util.module_from_spec(importlib.util.spec_from_file_location(
    "renamed", weighted_freezing_fairseq.__file__, submodule_search_locations=weighted_freezing_fairseq.__path__))
renamed.__spec__.loader.exec_module(renamed)
renamed.register()
"""


def test_register_is_idempotent_and_refuses_a_second_name():
    done = subprocess.run([sys.executable, "-c", REGISTER], capture_output=True, text=True, timeout=300)
    error = done.stderr.splitlines()[-1]
    assert error.startswith("ImportError: this plugin is registered already, under the name weighted_freezing_fairseq")
    assert error.endswith('give fairseq one path to it: --user-dir "$(wff user-dir)"')


@pytest.mark.parametrize("trap", ["other version", "printed folder of another version", "other name"])
def test_a_second_plugin_is_refused_with_what_to_type(fairseq: Fairseq, trap: str, tmp_path: Path):
    copy = tmp_path / ("renamed" if trap == "other name" else "weighted_freezing_fairseq")
    shutil.copytree(USER_DIR, copy)
    init = copy / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
    code = f"import sys; sys.path.insert(0, {str(USER_DIR.parent)!r}); import weighted_freezing_fairseq as package; "
    if trap == "printed folder of another version":
        copy /= PRINTED.relative_to(USER_DIR)
    else:
        code += "package.register(); "
    code += "from fairseq_cli.train import cli_main; cli_main()"
    process = fairseq.python("-c", code, *fairseq.train_words("run", *WF, plugin=False), "--user-dir", copy)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "wff user-dir" in output, output[-3000:]


HYDRA = """
common: {{cpu: true, user_dir: {user_dir}, log_interval: 1, log_format: json}}
task: {{_name: translation, data: {data}, source_lang: x, target_lang: y}}
{toy}optimizer: {{_name: weighted_freeze, base_optimizer: sgd, momentum: 0.5, importance_norm: global}}
lr_scheduler: {{_name: fixed}}
dataset: {{max_tokens: 120, num_workers: 0, required_batch_size_multiple: 1, disable_validation: true}}
optimization: {{max_update: 2, lr: [0.01]}}
checkpoint: {{save_dir: {save}, no_epoch_checkpoints: true}}
"""


def test_hydra_train_equals_the_command_line(fairseq: Fairseq):
    flags = ["--base-optimizer", "sgd", "--momentum", "0.5", "--importance-norm", "global"]
    fairseq.train("argparse", *WF, *flags)
    text = HYDRA.format(toy=TOY_YAML, user_dir=USER_DIR, data=fairseq.data, save=fairseq.folder / "hydra")
    (fairseq.folder / "run.yaml").write_text(text)
    fairseq("hydra_train", "--config-dir", fairseq.folder, "--config-name", "run")
    assert_same(fairseq.checkpoint("argparse")["model"], fairseq.checkpoint("hydra")["model"])


def test_hydra_takes_settings_that_the_yaml_leaves_out(fairseq: Fairseq):
    text = HYDRA.format(toy=TOY_YAML, user_dir=USER_DIR, data=fairseq.data, save=fairseq.folder / "run")
    (fairseq.folder / "run.yaml").write_text(text)
    yaml = ["--config-dir", fairseq.folder, "--config-name", "run"]

    def train(*words: str) -> str:
        process = fairseq.python("-m", "weighted_freezing_fairseq.hydra_train", *yaml, *words)
        return process.communicate(timeout=300)[0]

    random = ["optimizer.freeze_rule=random", "optimizer.freeze_keep=0.25"]
    train(*random, "criterion=intra_distillation", "criterion.alpha=3", "common.log_importance=1")
    cfg = fairseq.checkpoint("run")["cfg"]
    assert (cfg["optimizer"]["freeze_keep"], cfg["optimizer"]["momentum"]) == (0.25, 0.5)
    assert (cfg["criterion"]["_name"], cfg["criterion"]["alpha"]) == ("intra_distillation", 3)
    assert cfg["common"]["log_importance"] == 1

    misspelt = "UserError: unknown setting optimizer.freeze_kep: did you mean freeze_keep"
    for output in (
        train("optimizer.freeze_kep=0.25"),
        fairseq("hydra_train", *yaml, "+optimizer.freeze_kep=0.25", ok=False),
    ):
        assert output.splitlines()[-1].startswith(misspelt) and "Traceback" not in output, output[-2000:]
    for word, said in (
        ("task.data=null", "setting task.data is missing; type task.data=BIN"),
        ("criterion=cross_entropy", "add '~criterion.label_smoothing'"),
        ("--config-name=rum", "setting task is missing: no YAML sets it; type --config-dir DIR --config-name METHOD"),
    ):
        output = train(word)
        assert said in output.splitlines()[-1] and "Traceback" not in output, output[-2000:]
    assert "UserError: --freeze-keep 0.25 needs --freeze-rule random" in train("optimizer.freeze_keep=0.25")
    assert "use +optimizer.freeze_keep=0.25" in fairseq("hydra_train", *yaml, "optimizer.freeze_keep=0.25", ok=False)


def test_generate_interactive_and_validate_load_what_was_trained(fairseq: Fairseq, cold: Fairseq):
    trained = fairseq.train("run", *WF)
    assert "Warning" not in trained.split("task: TranslationTask")[1], trained
    path = ["--path", fairseq.folder / "run/checkpoint_last.pt", "--user-dir", USER_DIR, "--cpu"]
    generated = cold("generate", fairseq.data, *path, "--required-batch-size-multiple", 1)
    assert sum(line.startswith("H-") for line in generated.splitlines()) == 21
    (fairseq.folder / "in.x").write_text("a b c\n")
    assert "H-0" in fairseq("interactive", fairseq.data, *path, "--input", "in.x", "-s", "x", "-t", "y")
    assert "valid" in fairseq(
        "validate", fairseq.data, *path, "--task", "translation", "--valid-subset", "valid", "--batch-size", 8
    )


SPAWN = """
import sys
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed.utils import distributed_main
from fairseq_cli.train import main
if __name__ == "__main__":
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser()))
    cfg.distributed_training.distributed_rank = None
    torch.multiprocessing.spawn(distributed_main, args=(main, cfg, {"start_rank": 0}), nprocs=2, join=True)
"""


def test_spawned_workers_load_the_plugin(cold: Fairseq):
    # What fairseq-train does on several GPUs: the workers start from nothing and get the settings by pickle.
    (cold.folder / "spawn.py").write_text(SPAWN)
    words = cold.train_words("run", *WF, "--distributed-world-size", 2, "--distributed-backend", "gloo")
    words += ["--distributed-init-method", f"file://{cold.folder}/rendezvous", "--ddp-backend", "legacy_ddp"]
    done = subprocess.run(
        [sys.executable, "spawn.py", *map(str, words)],
        cwd=cold.folder, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert cold.checkpoint("run")["last_optimizer_state"]["guided"]["updates"] == 2


class Hostile:
    """Unpickling this writes a file."""

    def __reduce__(self):
        return os.system, ("touch /tmp/never-written-by-weighted-freezing",)


def test_a_checkpoint_with_code_in_it_is_refused_in_one_sentence(fairseq: Fairseq):
    fairseq.train("run", *WF)
    state = fairseq.checkpoint("run")
    state["extra_state"]["surprise"] = Hostile()
    torch.save(state, fairseq.folder / "hostile.pt")
    user_dir = ["--user-dir", USER_DIR]
    output = fairseq("generate", fairseq.data, "--path", fairseq.folder / "hostile.pt", "--cpu", *user_dir, ok=False)
    assert "was not loaded: it holds something other than tensors and settings" in output
    assert "system" in output
    output = fairseq.train("new", *WF, "--restore-file", fairseq.folder / "hostile.pt", ok=False)
    assert "was not loaded" in output
    assert not Path("/tmp/never-written-by-weighted-freezing").exists()


CODE_IN_SETTINGS = "__import__('pathlib').Path({marker!r}).touch() or [(16, 3)]"


def a_convolutional_model(state: dict, encoder_layers: str, form: str) -> dict:
    """The checkpoint of a run with the settings of an `fconv`, new or as fairseq 0.9 wrote them."""
    settings = {"_name": "fconv", "arch": "fconv", "encoder_layers": encoder_layers, "decoder_layers": "[(16, 3)] * 2"}
    settings |= {"encoder_embed_dim": 16, "decoder_embed_dim": 16, "decoder_out_embed_dim": 16}
    settings |= {"max_source_positions": 40, "max_target_positions": 40}
    if form == "cfg":
        return {**state, "cfg": {**state["cfg"], "model": argparse.Namespace(**settings)}}
    task = {**state["cfg"]["task"], "task": "translation", "criterion": "cross_entropy"}
    return {**{k: v for k, v in state.items() if k != "cfg"}, "args": argparse.Namespace(**{**task, **settings})}


def test_no_command_runs_code_in_a_setting_of_a_checkpoint(fairseq: Fairseq, capsys):
    fairseq.train("run", *WF)
    marker, path, old = (fairseq.folder / name for name in ("ran", "evil.pt", "old.pt"))
    code = CODE_IN_SETTINGS.format(marker=str(marker))
    torch.save(a_convolutional_model(fairseq.checkpoint("run"), code, "cfg"), path)
    torch.save(a_convolutional_model(fairseq.checkpoint("run"), code, "args"), old)
    user_dir = ["--user-dir", USER_DIR, "--cpu", "--path"]
    teacher = ["--optimizer", "adam", "--criterion", "self_distillation", "--teacher", path]
    said = {
        "generate": fairseq("generate", fairseq.data, *user_dir, path, ok=False),
        "generate of an old checkpoint": fairseq("generate", fairseq.data, *user_dir, old, ok=False),
        "finetune": fairseq.train("tuned", *WF, "--finetune-from-model", path, ok=False),
        "teacher": fairseq.train("taught", *teacher, ok=False),
    }
    for command, *words in (
        ("sensitivity", "--data", fairseq.data),
        ("fisher", "--data", fairseq.data),
        ("prune", "--fraction", 0.5, "--method", "magnitude"),
        ("evaluate", "--data", fairseq.data, "--reference", fairseq.data.parent / "test.y", "--device", "cpu"),
    ):
        assert main([str(word) for word in (command, path, *words, "--out", fairseq.folder / command)]) == 2
        said[command] = capsys.readouterr().err.strip().splitlines()[-1]
    for command, text in said.items():
        assert ".pt was not loaded: fairseq would run its setting model.encoder_layers as Python" in text, command
        assert "allowed are literals such as '[(512, 3)] * 20'" in text, command
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:(?s).*(hydra|strict|_group_|version_base|weight_norm)")
def test_a_convolutional_model_of_repeated_literals_loads(fairseq: Fairseq):
    fairseq.train("run", *WF)
    for form in ("cfg", "args"):
        state = a_convolutional_model(fairseq.checkpoint("run"), "[(16, 3)] * 2 + [(16, 1)]", form)
        torch.save(state, fairseq.folder / "shape.pt")
        assert len(shape_of(fairseq.folder / "shape.pt").encoder.convolutions) == 3, form


def test_checkpoints_of_older_fairseq_load(fairseq: Fairseq):
    """A state as fairseq 0.9 wrote it (flat Namespace, meters as objects), with the weight copies of 0.12.2."""
    from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter

    fairseq.train("run", *WF)
    state = fairseq.checkpoint("run")
    old = {name: state[name] for name in ("model", "optimizer_history", "last_optimizer_state")}
    encoder = [name for name in state["model"] if name.startswith("encoder.layers.0.")]
    for copy in ("in_proj", "out_proj", "fc1", "fc2"):
        old["model"] |= {f"encoder.layers.0.{copy}_{kind}": torch.zeros(2) for kind in ("weight", "bias")}
    assert encoder
    old["args"] = argparse.Namespace(**vars(state["cfg"]["model"]))
    old["extra_state"] = {
        "train_iterator": {"epoch": 1, "iterations_in_epoch": 2, "shuffle": True},
        "train_meters": {"train_loss": AverageMeter(), "wps": TimeMeter(), "wall": StopwatchMeter()},
        "val_loss": 1.0,
    }
    torch.save(old, fairseq.folder / "old.pt")
    path = ["--path", fairseq.folder / "old.pt", "--user-dir", USER_DIR, "--cpu"]
    assert "Generate test" in fairseq("generate", fairseq.data, *path)


def test_a_run_with_eval_bleu_resumes(fairseq: Fairseq):
    flags = ["--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 10}', "--eval-bleu-detok", "space"]
    flags += ["--optimizer", "weighted_freeze", "--max-update", 40]
    words = [word for word in fairseq.train_words("run", *flags) if word != "--disable-validation"]
    fairseq("train", *words)
    output = fairseq("train", *words, "--max-update", 42)
    assert "checkpoint_last.pt (epoch 3 @ 40 updates)" in output and '"valid_bleu"' in output
