"""Every YAML of the repository becomes a trainer: no name, option or value in it is unknown."""

import csv
import json
import re
from pathlib import Path

import pytest
import tiny_sentences
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq_runs import UNSET_IN_0_12_2
from omegaconf import OmegaConf
from recipe_runs import differences

from weighted_freezing_fairseq.core.schedules import pruning_steps
from weighted_freezing_fairseq.costs import subjects
from weighted_freezing_fairseq.data import GLUE, PAWSX, XGLUE, XNLI
from weighted_freezing_fairseq.plugin.runs import build_trainer, load_config
from weighted_freezing_fairseq.studies.sizes import SIZES, configs_of, range_of
from weighted_freezing_fairseq.workspace.configs import CONFIGS

FOLDERS = {"adapt": 8, "glue": 10, "iwslt14": 12, "iwslt14-li": 15, "multi30k": 13, "prune": 2, "toy": 15, "wmt17": 7}
FOLDERS |= {"xnli": 6, "pawsx": 10, "xglue": 11, "own": 57, "lowresource": 20}
YAMLS = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
LABELLED = ("glue", "xnli", "pawsx", "xglue")


def test_the_folders_are_those_that_the_pages_name():
    assert {folder: sum(path.parts[0] == folder for path in YAMLS) for folder in FOLDERS} == FOLDERS
    assert len(YAMLS) == sum(FOLDERS.values())


# Beside `standard.yaml`, what each may change.
METHODS = ("optimizer", "criterion", "model")
STARTED = {"fish_mask", "lfr_cm"}  # from another run, for fewer updates
SHORT = {"intra_distillation_third"}
# With the papers' strength for more pairs than the 29,000 of Multi30k.
STRONGER = {
    (size, name) for size in ("small", "base") for name in ("intra_distillation", "intra_distillation_third", "r_drop")
}
# At the larger of the two learning rates that Li et al. 2023 searched.
FASTER = {f"weighted_freeze{rule}" for rule in ("", "_smooth", "_important", "_random", "_loss_preserving", "_fisher")}
FASTER |= {"sage", "sage_light", "sage_fisher", "sage_magnitude"}
MATRICES = ("multi30k", "lowresource", "iwslt14", "iwslt14-li", "wmt17")


@pytest.mark.parametrize("folder", [*MATRICES, *(f"own/{size}" for size in SIZES)])
def test_a_cell_differs_from_standard_training_in_its_method_alone(folder):
    for name, (cfg, changed) in differences(folder).items():
        # alignreg prunes a trained model, on a schedule of its own
        if name in ("standard", "standard_double_lr", "alignreg"):
            continue
        rest = changed - set(METHODS)
        assert len(changed & set(METHODS)) == 1 and ("model" in changed) == (name == "switch_transformer"), name
        expected = {"optimization", "checkpoint"} if name in STARTED else {"optimization"} if name in SHORT else set()
        if (folder == "iwslt14-li" and name in FASTER) or (folder == "lowresource" and name in ("sage_light", "magma")):
            expected = {"optimization"}  # the learning rate
        assert rest == expected, name
        assert cfg["optimizer"]["weight_decay"] == 1e-4 and cfg["optimizer"]["adam_betas"] == "(0.9, 0.98)"


def sections(path: Path) -> dict[str, str]:
    """The text of each section of a YAML, with its comments."""
    parts = re.split(r"^(?=\w+:)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.partition(":")[0]: part for part in parts}


@pytest.mark.parametrize("size", SIZES)
def test_the_yamls_of_a_size_are_one_text_but_for_the_method(size):
    standard = sections(configs_of(size) / "standard.yaml")
    for name, (_, changed) in differences(f"own/{size}").items():
        path = configs_of(size) / f"{name}.yaml"
        assert {part for part, text in sections(path).items() if text != standard[part]} == changed, name
        header = " ".join(path.read_text(encoding="utf-8").partition("\n\n")[0].replace("\n#", "").split())
        assert f"on own files of size {size}, {range_of(size)}" in header, name


def test_a_method_is_the_same_for_own_files_of_every_size():
    sizes = {size: differences(f"own/{size}") for size in SIZES}
    published = differences("multi30k")
    for size, cells in sizes.items():
        # alignreg goes on from a dense model, so that its best checkpoint is one from before pruning
        assert cells.keys() == {*published, *differences("iwslt14"), *differences("toy")} - {"alignreg"}
        standard = cells["standard"][0]
        for name, (cfg, _) in cells.items():
            same = published[name][0] if name in published else sizes["tiny"][name][0]
            criterion = same["criterion"] | ({"alpha": 5} if (size, name) in STRONGER else {})
            assert (cfg["optimizer"], cfg["criterion"]) == (same["optimizer"], criterion), (size, name)
            switch = [
                {key: value for key, value in c["model"].items() if key.startswith("switch")} for c in (cfg, same)
            ]
            assert switch[0] == switch[1] and (cfg["model"] == standard["model"] | switch[0] | cfg["model"])
            length = standard["optimization"]["max_update"] / (3 if name in STARTED | SHORT else 1)
            assert cfg["optimization"] == standard["optimization"] | {"max_update": round(length)}, (size, name)
            start = {"finetune_from_model": "???"} if name in STARTED else {}
            assert cfg["checkpoint"] == standard["checkpoint"] | start, (size, name)


def test_the_page_has_the_settings_of_the_sizes():
    page = (CONFIGS.parent / "docs/own-corpus.md").read_text(encoding="utf-8")
    for size in SIZES:
        cfg = differences(f"own/{size}")["standard"][0]
        model, optimization = cfg["model"], cfg["optimization"]
        [parameters] = re.findall(r"[\d.]+M", (configs_of(size) / "standard.yaml").read_text(encoding="utf-8"))
        tokens = cfg["dataset"]["max_tokens"] * optimization.get("update_freq", [1])[0]
        pairs = range_of(size).replace(" training pairs", "")
        layers = f"{model['encoder']['layers']}, {model['encoder']['embed_dim']}"
        updates = f"{optimization['max_update']:,}, {tokens:,}"
        assert f"| `{size}` | {pairs} | {parameters} | {layers} | {model['dropout']} | {updates} |" in page


def test_the_reasons_for_the_sizes_hold():
    """What the headers of configs/own/SIZE/standard.yaml say."""
    tiny, small, base, multi30k, xu, li, wmt = (
        differences(folder)["standard"][0]
        for folder in ("own/tiny", "own/small", "own/base", "multi30k", "iwslt14", "iwslt14-li", "wmt17")
    )
    assert tiny["model"] == multi30k["model"] | {"dropout": 0.2}
    assert tiny["optimization"] == multi30k["optimization"] | {"max_update": 3000}
    assert tiny["lr_scheduler"]["_name"] == multi30k["lr_scheduler"]["_name"] == "polynomial_decay"
    assert small["dataset"]["max_tokens"] == li["dataset"]["max_tokens"]
    assert small["optimization"]["max_update"] == li["optimization"]["max_update"]
    assert small["lr_scheduler"] == base["lr_scheduler"] == li["lr_scheduler"]
    assert [small["model"][key] for key in ("dropout", "attention_dropout")] == [
        li["model"][key] for key in ("dropout", "attention_dropout")
    ]
    for cfg in (small, base):
        width, warmup = cfg["model"]["encoder"]["embed_dim"], cfg["lr_scheduler"]["warmup_updates"]
        assert cfg["optimization"]["lr"] == [pytest.approx((width * warmup) ** -0.5, rel=0.02)]
    assert base["dataset"]["max_tokens"] * base["optimization"]["update_freq"][0] == pytest.approx(25_000, rel=0.02)
    assert base["optimization"]["max_update"] == xu["optimization"]["max_update"] == wmt["optimization"]["max_update"]
    assert xu["model"]["dropout"] == 0.3 and base["model"]["dropout"] == 0.2


def test_weighted_freezing_runs_as_its_author_ran_it_beside_a_control_and_standard_at_its_learning_rate():
    cells = {name: cfg for name, (cfg, _) in differences("iwslt14-li").items()}
    baseline = cells["standard_double_lr"]
    for name in FASTER:
        assert cells[name]["optimization"] == baseline["optimization"] == {"max_update": 20000, "lr": [1e-3]}, name
    rules = {name: cells[name]["optimizer"] for name in FASTER if name.startswith("weighted_freeze")}
    assert {name: optimizer["freeze_rule"] for name, optimizer in rules.items()} == {
        "weighted_freeze": "printed", "weighted_freeze_smooth": "smooth", "weighted_freeze_important": "important",
        "weighted_freeze_random": "random", "weighted_freeze_loss_preserving": "printed",
        "weighted_freeze_fisher": "printed",
    }  # fmt: skip
    assert all(optimizer["importance_start"] == 4000 for optimizer in rules.values())
    assert {key for key, (_, changed) in differences("iwslt14-li").items() if changed == {"optimization"}} == {
        "standard_double_lr"
    }


@pytest.mark.parametrize("folder", LABELLED)
def test_a_cell_of_labelled_sentences_differs_in_its_method_alone(folder):
    for name, (cfg, changed) in differences(folder).items():
        if name == "untrained":
            assert changed == {"optimization"} and cfg["optimization"] == {"max_update": 1, "lr": [0.0]}
        elif name != "standard":
            rest = changed - {"optimizer", "criterion"}
            longer = folder == "xglue"  # pruned step by step
            assert len(changed - rest) == 1 and rest == ({"optimization"} if longer or name in SHORT else set()), name
        base = cfg["optimizer"].get("base_optimizer", cfg["optimizer"]["_name"])
        assert base == {"glue": "adamax"}.get(folder, "adam") and cfg["optimizer"]["weight_decay"] == 0


def test_the_papers_settings_are_in_the_yamls_of_labelled_sentences():
    """Xu et al. 2022, appendix A.3; Li et al. 2023, Table 8; O'Neill et al. 2022, section 4."""
    settings = [differences(folder)["standard"][0] for folder in LABELLED]
    assert [cfg["dataset"]["batch_size"] for cfg in settings] == [32, 16, 16, 32]
    assert [cfg["optimization"]["lr"] for cfg in settings] == [[2e-4], [1e-5], [1e-5], [5e-6]]
    assert [cfg["optimization"]["max_epoch"] for cfg in settings] == [20, 3, 5, 10]
    assert all(cfg["lr_scheduler"]["warmup_updates"] == 0 for cfg in settings)
    assert settings[0]["model"]["dropout"] == 0.1
    assert (GLUE.longest, XNLI.longest, PAWSX.longest, XGLUE.longest) == (128, 256, 256, 256)
    with_third = [differences(folder) for folder in ("glue", "xnli", "pawsx")]
    thirds = [cells["intra_distillation_third"][0]["optimization"]["max_epoch"] for cells in with_third]
    assert thirds == [7, 1, 2]


def test_rows_of_xglue_prune_to_31_percent_by_the_method_of_their_name():
    """O'Neill et al. 2022, section 4: 10 % every 15 epochs; 0.9^11 = 0.31."""
    for name, (cfg, _) in differences("xglue").items():
        if name == "standard":
            continue
        criterion, epochs = cfg["criterion"], cfg["optimization"]["max_epoch"]
        aligned = name in ("cosine", "frobenius")
        assert (criterion["alignreg"], criterion["prune"]) == ((name, "magnitude") if aligned else ("none", name))
        assert criterion.get("alignreg_lambda") == (5e-4 if aligned else None)  # section 3.1
        assert (criterion["prune_interval"], criterion["prune_unit"]) == (15, "epochs")
        steps = pruning_steps(criterion["prune_step"], criterion["prune_target"], criterion["prune_schedule"])
        assert steps == 11 and epochs == 15 * (steps + 1)
        assert 1 - criterion["prune_target"] == pytest.approx(0.9**11, abs=5e-4)


def test_a_method_is_the_same_for_xnli_and_pawsx():
    xnli, pawsx = differences("xnli"), differences("pawsx")
    for name, (cfg, _) in xnli.items():
        expected = {part: values for part, values in pawsx[name][0].items() if part not in ("task", "optimization")}
        assert {part: cfg[part] for part in expected} == expected, name
    for name in pawsx.keys() - xnli.keys():
        method, _, importance = name.replace("loss_preserving", "loss-preserving").rpartition("_")
        assert pawsx[name][0]["optimizer"] == pawsx[method][0]["optimizer"] | {"importance": importance}, name


def test_the_papers_settings_are_in_the_yamls():
    """Xu et al. 2022, section 4.2 and appendix A; Li et al. 2023, appendix C."""
    settings = {folder: differences(folder)["standard"][0] for folder in ("iwslt14", "iwslt14-li", "wmt17")}
    assert [cfg["optimization"]["max_update"] for cfg in settings.values()] == [50_000, 20_000, 50_000]
    assert [cfg["lr_scheduler"]["warmup_updates"] for cfg in settings.values()] == [8000, 4000, 4000]
    assert settings["wmt17"]["optimization"]["update_freq"] == [16]
    assert all(cfg["dataset"]["max_tokens"] == 4096 for cfg in settings.values())
    for folder, p in (("iwslt14", 5), ("iwslt14-li", 5), ("wmt17", 6.25)):
        criterion = differences(folder)["intra_distillation"][0]["criterion"]
        assert [criterion[key] for key in ("alpha", "alpha_p", "alpha_q", "num_passes")] == [5, p, 10, 3]
    for folder in ("lowresource", "multi30k", "own/tiny"):  # with little data 1 is better: docs/results.md
        for method in ("intra_distillation", "r_drop"):
            assert differences(folder)[method][0]["criterion"]["alpha"] == 1


@pytest.mark.parametrize(
    ("cell", "pieces", "printed"),
    [
        ("iwslt14/standard", 12_000, "49.98M"),  # Xu et al. 2022, Table 2
        ("iwslt14/switch_transformer", 12_000, "87.81M"),
        ("iwslt14-li/standard", 12_000, "43.83M"),  # Li et al. 2023 train on the data of Xu et al.
        ("wmt17/standard", 32_000, "275M"),  # Table 3
        ("wmt17/switch_transformer", 32_000, "577M"),
        *((f"own/{size}/standard", 8000, None) for size in SIZES),  # in the header
    ],
)
def test_the_models_have_as_many_parameters_as_is_printed(cell, pieces, printed):
    """Built on the meta device. A dictionary of SentencePiece's V pieces has V + 1 words: fairseq's own four take the
    place of <unk>, <s> and </s>. Beside layers of 31,543,296 parameters are three embeddings of 12,001 x 512 words
    (source, target, output): 49,976,832; two, with the decoder's shared: 43,832,320. Of the big one, 176,357,376 and
    three of 32,001 x 1024: 274,664,448.
    """
    if printed is None:
        printed, _ = re.findall(r"[\d.]+M|8,000 subwords", (CONFIGS / f"{cell}.yaml").read_text(encoding="utf-8"))
    words = Dictionary()
    for number in range(pieces + 1 - len(words)):
        words.add_symbol(f"w{number}")
    task = TranslationTask(TranslationConfig(), words, words)
    with torch.device("meta"):
        model = task.build_model(load_config(CONFIGS / f"{cell}.yaml").model)
    found = sum(p.numel() for name, p in model.named_parameters() if not UNSET_IN_0_12_2.search(name)) / 1e6
    assert f"{found:.{2 if '.' in printed else 0}f}M" == printed


def test_the_authors_settings_are_in_the_yamls():
    """What the papers do not print: public code of Xu et al. (iwslt14, wmt17) and of Li et al. (iwslt14-li)."""
    for folder in ("iwslt14", "wmt17"):
        for name, (cfg, _) in differences(folder).items():
            assert cfg["optimizer"]["adam_eps"] == 1e-6 and "clip_norm" not in cfg["optimization"], name
            assert cfg["checkpoint"].get("patience") == (None if name == "alignreg" else 40), name
            assert "eval_bleu" not in cfg["task"], name  # the best checkpoint is that with the best validation loss
    li = differences("iwslt14-li")["standard"][0]
    assert li["checkpoint"]["best_checkpoint_metric"] == "bleu" and li["checkpoint"]["maximize_best_checkpoint_metric"]
    assert json.loads(li["task"]["eval_bleu_args"]) == {"beam": 5, "max_len_a": 1.2, "max_len_b": 10}
    assert li["task"]["eval_bleu"] and "clip_norm" not in li["optimization"]


def test_the_best_checkpoint_of_li_et_al_is_chosen_by_the_bleu_of_text():
    """`hel lo world .` in pieces of SentencePiece are three words of sacreBLEU: hello, world and the full stop."""
    small = [
        f"model.{side}.{key}={value}"
        for side in ("encoder", "decoder")
        for key, value in (("layers", 1), ("embed_dim", 8), ("ffn_embed_dim", 8), ("attention_heads", 2))
    ]
    cfg = load_config(CONFIGS / "iwslt14-li/standard.yaml", small)
    words = Dictionary()
    target = torch.tensor([[*map(words.add_symbol, ("▁hel", "lo", "▁world", ".")), words.eos()]])
    task = TranslationTask(cfg.task, words, words)
    torch.manual_seed(1)  # fairseq logs no BLEU where the untrained model says nothing
    model = task.build_model(cfg.model)
    inputs = {"src_tokens": target, "src_lengths": torch.tensor([5]), "prev_output_tokens": target.roll(1)}
    sample = {"id": torch.tensor([0]), "nsentences": 1, "ntokens": 5, "net_input": inputs, "target": target}
    criterion = task.build_criterion(cfg.criterion)
    logged = task.valid_step(sample, model, criterion)[2]
    assert logged["_bleu_ref_len"] == 3
    with metrics.aggregate(new_root=True) as shown:
        task.reduce_metrics([logged], criterion)
    assert cfg.checkpoint.best_checkpoint_metric in shown.get_smoothed_values()


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    return tiny_sentences.write(tmp_path_factory.mktemp("sentences"))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in YAMLS if path.parts[0] in LABELLED], ids=str)
def test_every_yaml_of_labelled_sentences_is_a_training(path: Path, sentences):
    given = "common.cpu=true checkpoint.save_dir=unused task.num_classes=3 task.max_positions=40 criterion.alpha=1.5"
    given += " criterion.regression_target=false optimization.max_update=9 criterion.divergence_reduction=sum"
    given += " checkpoint.best_checkpoint_metric=loss"
    given += " model.encoder_layers=1 model.encoder_embed_dim=16 model.encoder_ffn_embed_dim=16"
    wanted = OmegaConf.load(CONFIGS / path)
    overrides = [*given.split(), "model.encoder_attention_heads=2", f"task.data={sentences / 'classes'}"]
    settled = [name for name in ("alpha", "divergence_reduction") if not OmegaConf.is_missing(wanted.criterion, name)]
    overrides = [each for each in overrides if not any(f"criterion.{name}=" in each for name in settled)]
    if path.stem == "fish_mask":
        assert OmegaConf.is_missing(wanted.optimizer, "fish_mask")
        overrides += ["optimizer.fish_mask=null", "optimizer.fish_density=0.5"]
    assert (CONFIGS / path).read_text(encoding="utf-8").startswith("# ")
    trainer = build_trainer(load_config(CONFIGS / path, [*overrides, "checkpoint.finetune_from_model=unused"]))
    assert trainer.cfg.optimizer._name == wanted.optimizer._name and trainer.optimizer.get_lr() >= 0
    assert trainer.cfg.lr_scheduler._name == "polynomial_decay" and trainer.lr_scheduler.total_num_update == 9
    assert "sentence_classification_head" in trainer.model.classification_heads
    assert trainer.get_criterion() is not None


# The same methods in the other sizes are parts of these, which tests above hold.
PARTS = {path for size in ("small", "base") for path in YAMLS if path.parts[:2] == ("own", size)}
PARTS -= {path for path in PARTS if path.stem in ("standard", "switch_transformer")}


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in YAMLS if p.parts[0] not in LABELLED and p not in PARTS], ids=str)
def test_every_yaml_is_a_training(path: Path):
    config = CONFIGS / path
    wanted = OmegaConf.load(config)
    assert config.read_text(encoding="utf-8").startswith("# "), "a header says what is compared, and after which paper"
    more = (
        ["criterion.alignreg=frobenius", "criterion.prune=lamp"]
        if OmegaConf.is_missing(wanted.criterion, "prune")
        else []
    )
    size = subjects.SIZES["toy"]
    subject = subjects.subject_of(path.stem, config, size, "cpu", 1, subjects.synthetic(size, seed=1)[1], more)
    made = subject.trainer.cfg
    for section in ("model", "criterion", "optimizer", "lr_scheduler"):
        assert made[section]._name == wanted[section]._name
    assert made.optimization.max_update == wanted.optimization.max_update
    assert subject.trainer.criterion is not None


def test_the_low_resource_yamls_are_those_that_were_tuned():
    """The value of each main setting is the one with the highest BLEU on the validation set."""
    with (CONFIGS.parent / "results/lowresource-3000/tuning.csv").open(newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    cells = differences("lowresource")
    for method in dict.fromkeys(run["method"] for run in runs):
        best = max((run for run in runs if run["method"] == method), key=lambda run: float(run["bleu"]))
        section, key = best["setting"].split(".")
        default = {"teacher_weight": 1.0}
        value = cells[method][0][section].get(key, default.get(key))
        assert (value[0] if key == "lr" else value) == float(best["value"]), method
