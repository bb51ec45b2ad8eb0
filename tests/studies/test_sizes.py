"""The size of a training on own files: by the number of pairs, the same in every command, one in a folder of runs."""

import json
import re
import shlex
import shutil

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.plugin.runs import load_config
from weighted_freezing_fairseq.studies.sizes import configs_of
from weighted_freezing_fairseq.studies.train import Study


def prepared(place, pair, pairs):
    """A manifest with this number of training pairs, which is all that the size depends on."""
    folder = place / "data/own/mine" / pair
    folder.mkdir(parents=True)
    counts = [{"step": step, "split": "train", "pairs": n} for step, n in (("text", 7), ("binarised", pairs))]
    manifest = {"dataset": "own", "recipe": "mine", "pair": pair, "what": "own", "sha256": {}, "counts": counts}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path, "fr-en", 34_012)
    return tmp_path


def study_of(*pairs, **options):
    return Study.of("own", recipe="mine", pairs=pairs or ["fr-en"], **options)


def a_run(study, method="standard", pair="fr-en"):
    run = study.run(pair, method, 1)
    run.folder.mkdir(parents=True)
    about = {**study.provenance(pair, run), "method": method, "seed": 1, "sittings": []}
    about["config"] = str(study.configs / f"{method}.yaml")
    (run.folder / "provenance.json").write_text(json.dumps(about))
    return run.folder


@pytest.mark.parametrize(
    ("pairs", "size"), [(1, "tiny"), (19_999, "tiny"), (20_000, "small"), (199_999, "small"), (200_000, "base")]
)
def test_the_number_of_training_pairs_chooses_the_size(pairs, size, place, capsys):
    prepared(place, "de-en", pairs)
    study = study_of("de-en")
    assert (study.size, study.configs) == (size, configs_of(size))
    assert capsys.readouterr().err.endswith(f"] size {size}: {pairs:,} training pairs\n")


def test_the_size_is_the_same_in_every_command(place, capsys, tmp_path):
    words = ["own", "--recipe", "mine"]
    assert main(["train", *words, "--pair", "fr-en", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert str(configs_of("small") / "standard.yaml") in out and "size small: 34,012 training pairs" in err
    assert main(["reproduce", *words, "--pairs", "fr-en", "--list"]) == 0
    out, err = capsys.readouterr()
    cells = [shlex.split(line.partition("\t")[2].partition(" && ")[0]) for line in out.splitlines()]
    assert len(cells) == 2 * 3 and "size small: 34,012 training pairs" in err
    for cell in cells:
        assert "--size" not in cell and cell[cell.index("--configs") + 1] == str(configs_of("small"))
        assert main([*cell[1:], "--dry-run"]) == 0
        assert str(configs_of("small")) in capsys.readouterr().out
    study = study_of()
    command = study.command("fr-en", study.run("fr-en", "standard", 1))
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    assert str(configs_of("small")) in capsys.readouterr().out
    for same in (study_of(size="small"), study_of(size="auto"), study_of(configs=configs_of("small"))):
        assert same == study and json.loads((a_run(same) / "provenance.json").read_text())["size"] == "small"
        shutil.rmtree(place / "runs")
    mine = shutil.copytree(configs_of("small"), tmp_path / "small")
    assert "size" not in json.loads((a_run(study_of(configs=mine)) / "provenance.json").read_text())


def test_runs_of_two_sizes_do_not_share_a_folder(place, capsys):
    folder = a_run(study_of(size="tiny"))
    for method in ("standard", "sage"):
        words = ["own", "--recipe", "mine", "--pair", "fr-en", "--method", method, "--dry-run"]
        assert main(["train", *words]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"wff train: {folder} was trained with size tiny, and runs of size small beside it")
        assert error.endswith("type --size tiny, or for size small --out runs/own-small")
        assert main(["train", *words, "--size", "tiny"]) == 0
        assert main(["train", *words, "--out", "runs/own-small"]) == 0


def test_other_yamls_and_those_of_a_size_do_not_share_a_folder(place, capsys):
    mine = shutil.copytree(configs_of("tiny"), place / "mine")
    words = ["train", "own", "--recipe", "mine", "--pair", "fr-en", "--method", "sage", "--dry-run"]
    for study, other, said in (
        (study_of(), ["--configs", "mine"], f"size small, and runs of the YAMLs in {mine} beside it .*--out runs/mine"),
        (study_of(configs=mine), [], f"the YAMLs in {mine}, and runs of size small .* type --configs {mine}, or for"),
    ):
        a_run(study)
        assert main([*words, *other]) == 2
        assert re.search(f"was trained with {said}", capsys.readouterr().err)
        shutil.rmtree(place / "runs")
    a_run(study_of(configs=mine))
    assert main([*words, "--configs", "mine"]) == 0


def test_a_matrix_has_one_size(place, capsys):
    prepared(place, "de-en", 12_000)
    words = ["reproduce", "own", "--recipe", "mine", "--pairs", "fr-en,de-en", "--dry-run"]
    assert main(words) == 2
    assert "(training pairs: fr-en 34,012, de-en 12,000); type --size small or --size tiny" in capsys.readouterr().err
    assert main([*words, "--size", "tiny"]) == 0
    assert "size tiny: by --size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["multi30k", "--size", "tiny"], "--size chooses the YAMLs of own files; leave it out"),
        (["own", "--pair", "fr-en", "--size", "tiny", "--configs", "mine"], "leave it out with other data, and with"),
        (["own", "--recipe", "yours", "--pair", "fr-en"], "type: wff prepare own --name yours --pair fr-en --train"),
        (["own"], "--pair must be SOURCE-TARGET"),
        (["own", "--pair", "fr"], "--pair must be two languages"),
        (["own", "--pair", "../x-en"], "--pair must be two languages"),
    ],
)
def test_a_wrong_call_is_told_what_to_type(words, said, place, capsys):
    assert main(["train", *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_two_dictionaries_share_the_decoders_embeddings_alone():
    config = configs_of("tiny") / "standard.yaml"
    settings = Study.of("own", configs=configs_of("tiny")).task.settings
    dictionaries = [Dictionary(), Dictionary()]
    dictionaries[1].add_symbol("word")
    for dictionary, shared in (("separate", False), ("joined", True)):
        changed = settings(config, {}, {"steps": {"dictionary": dictionary}}, ()).get("model", {})
        given = [f"model.{key}={str(value).lower()}" for key, value in changed.items()]
        task = TranslationTask(TranslationConfig(), dictionaries[shared], dictionaries[1])
        with torch.device("meta"):
            model = task.build_model(load_config(config, given).model)
        assert (model.encoder.embed_tokens is model.decoder.embed_tokens) == shared
        assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
