"""The command in each YAML's header: it trains that YAML as typed from the root of the repository."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_sentences
from fairseq_runs import USER_DIR, Fairseq, environment
from omegaconf import OmegaConf

from weighted_freezing_fairseq.plugin.settings import refuse_invalid
from weighted_freezing_fairseq.workspace.configs import CONFIGS

COMMAND = re.compile(r"^#   (fairseq-hydra-train (?:.*\\\n#  )*.*)$", re.MULTILINE)
YAMLS = sorted(CONFIGS.rglob("*.yaml"))


def command(path: Path) -> str:
    (found,) = COMMAND.findall(path.read_text(encoding="utf-8"))
    return found.replace("\\\n#", "")


def words(path: Path, home: Path) -> list[str]:
    """The words of the command, as a shell passes them on."""
    expanded = command(path).replace("$(wff user-dir)", str(USER_DIR)).replace("$HOME", str(home))
    assert "$" not in expanded
    return shlex.split(expanded)[1:]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_the_command_names_its_yaml_and_sets_what_this_leaves_open(path: Path):
    """Hydra then accepts every word, as the keys of all are in the YAML, and fairseq has every value."""
    folder, yaml = path.parent.relative_to(CONFIGS), OmegaConf.load(path)
    option, config_dir, name_option, name, *settings = words(path, Path("/home/me"))
    assert (option, config_dir, name_option, name) == ("--config-dir", f"configs/{folder}", "--config-name", path.stem)
    assert settings[:2] == [f"common.user_dir={USER_DIR}", "hydra.run.dir=."]
    keys = {word.partition("=")[0] for word in settings[2:]}
    assert keys == {f"{s}.{key}" for s in yaml for key in yaml[s] if OmegaConf.is_missing(yaml[s], key)}
    complete = OmegaConf.merge(yaml, OmegaConf.from_dotlist(settings[2:]))
    refuse_invalid(complete)
    assert complete.checkpoint.save_dir == f"runs/{folder}/{path.stem}"


SMALL = {"layers": 1, "embed_dim": 16, "ffn_embed_dim": 16, "attention_heads": 2}
SHORT = ["common.cpu=true", "optimization.max_update=1"]
TRANSLATION = [*SHORT, "dataset.max_tokens=200"]
TRANSLATION += [f"model.{side}.{key}={value}" for side in ("encoder", "decoder") for key, value in SMALL.items()]
SENTENCES = [*SHORT, "dataset.batch_size=4", "task.num_classes=3", "task.max_positions=40"]
SENTENCES += [f"+model.encoder_{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def root(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Fairseq:
    """A repository with the data and the encoders that the commands name, all tiny."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "configs").symlink_to(CONFIGS)
    sentences = tiny_sentences.write(folder / "sentences") / "classes"
    encoder = tiny_sentences.trainer(sentences, "standard", "model.encoder_ffn_embed_dim=16")
    encoder.consolidate_optimizer()
    encoder.save_checkpoint(str(folder / "model.pt"), {})
    for path in YAMLS:
        settings = OmegaConf.from_dotlist([word for word in words(path, folder) if "=" in word])
        translation = "encoder" in OmegaConf.load(path).model
        link(Path(settings.task.data), toy_data if translation else sentences, folder)
        if not translation:
            link(Path(settings.checkpoint.finetune_from_model), folder / "model.pt", folder)
    return Fairseq(toy_data, folder)


def link(path: Path, target: Path, folder: Path) -> None:
    if not (folder / path).exists():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(target)


@pytest.fixture(scope="module")
def parent(root: Fairseq) -> Path:
    """The checkpoint of configs/toy/standard.yaml, whose command is typed into a shell."""
    typed = " ".join([command(CONFIGS / "toy/standard.yaml"), *TRANSLATION])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**environment(), "PATH": path}
    process = subprocess.run(["bash", "-c", typed], cwd=root.folder, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-4000:]
    return root.folder / "runs/toy/standard/checkpoint_best.pt"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adapt/standard", TRANSLATION),
        ("glue/intra_distillation", SENTENCES),
        ("iwslt14/weighted_freeze", TRANSLATION),
        ("iwslt14-li/sage", TRANSLATION),
        ("multi30k/self_distillation", TRANSLATION),
        ("own/tiny/standard", TRANSLATION),
        ("pawsx/sage_fisher", SENTENCES),
        ("prune/alignreg", [*TRANSLATION, "criterion.prune_interval=1", "optimization.max_update=8"]),
        ("wmt17/r_drop", TRANSLATION),
        (
            "xglue/frobenius",
            [*SENTENCES, "criterion.prune_interval=1", "criterion.prune_unit=updates", "optimization.max_update=12"],
        ),
        ("xnli/weighted_freeze", SENTENCES),
    ],
)
def test_the_command_trains(name: str, settings: Sequence[str], root: Fairseq, parent: Path):
    typed = words(CONFIGS / f"{name}.yaml", root.folder)
    for word in typed:
        path = root.folder / word.partition("=")[2]
        if path.suffix == ".pt" and not path.exists():
            link(path, parent, root.folder)
    root("hydra_train", *typed, *settings, "dataset.disable_validation=true")
    assert (root.folder / f"runs/{name}/checkpoint_last.pt").is_file()
