"""The commands that `wff init` prints run once the user's files are there, by the YAMLs that it wrote."""

import random
import shlex

from recipe_runs import wff

from weighted_freezing_fairseq.__main__ import main


def sentences(rng, count):
    """Pairs in which the second sentence is the first one backwards."""
    lines = [" ".join(rng.choice(["ab", "Cd.", "efg", "h"]) for _ in range(rng.randint(2, 6))) for _ in range(count)]
    return lines, [line[::-1] for line in lines]


def test_every_command_that_is_printed_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = wff("init", "--pair", "xx-yy", "--method", "sage", "--size", "tiny", "--out", "my own").stdout
    commands = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    yaml = tmp_path / "my own/sage.yaml"
    text = yaml.read_text()
    assert text.startswith("# A copy of configs/own/tiny/sage.yaml to edit")
    assert [line[1:].strip() for line in text.splitlines() if line.startswith("#   ")] == commands
    yaml.write_text(text.replace("max_update: 3000", "max_update: 4"))  # it is used
    rng = random.Random(7)
    for name, count in (("train", 200), ("letter", 3)):
        for language, lines in zip(("xx", "yy"), sentences(rng, count), strict=True):
            (tmp_path / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "letter.yy").unlink()
    device = ["--device", "cpu"]
    few = ["--set", "dataset.validate_interval_updates=4", "--set", "checkpoint.save_interval_updates=4"]
    more = {"train": [*device, *few], "evaluate": [*device, "--choices", "best"], "translate": device}
    for command in commands:
        _, verb, *words = shlex.split(command)
        done = wff(verb, *words, *more.get(verb, []))
        assert done.returncode == 0, done.stderr
        if verb == "evaluate":
            assert "10 sentences" in done.stdout
    assert [shlex.split(command)[1] for command in commands] == ["prepare", "train", "evaluate", "translate"]
    assert len((tmp_path / "letter.yy").read_text().splitlines()) == 3
    assert '"valid_num_updates": "4"' in (tmp_path / "runs/my own/own/xx-yy/sage-1/train.log").read_text()


def test_the_runs_that_a_method_starts_from_have_yamls_and_commands_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--pair", "fr-en", "--method", "self_distillation_twice"]) == 0
    chain = ["standard", "self_distillation", "self_distillation_twice"]
    assert {path.stem for path in (tmp_path / "configs-fr-en").iterdir()} == set(chain)
    commands = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  wff train")]
    assert [words[words.index("--method") + 1] for words in commands] == chain


def test_the_yaml_of_a_parent_that_is_there_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--pair", "fr-en"]) == 0
    standard = tmp_path / "configs-fr-en/standard.yaml"
    standard.write_text("mine")
    capsys.readouterr()
    assert main(["init", "--pair", "fr-en", "--method", "self_distillation_twice"]) == 0
    out, err = capsys.readouterr()
    assert standard.read_text() == "mine" and "standard.yaml is there and not overwritten; self_dist" in err
    assert "wrote configs-fr-en/self_distillation.yaml and configs-fr-en/self_distillation_twice.yaml (" in out
    assert "--method standard --configs configs-fr-en --out runs/configs-fr-en" in out


def test_yamls_are_never_overwritten_and_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["init", "--pair", "fr-en", "--method"]
    assert main([*words, "sage"]) == 0
    (tmp_path / "configs-fr-en/sage.yaml").write_text("mine")
    for method, said in (
        ("sage", "configs-fr-en/sage.yaml exists and is not overwritten; give another --out"),
        ("nosuch", "no method 'nosuch' in "),
        ("../../iwslt14/sage", "no method '../../iwslt14/sage' in "),
    ):
        assert main([*words, method]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "configs-fr-en/sage.yaml").read_text() == "mine"
    for pair in ("french", "fr-fr", "../x-en"):
        assert main(["init", "--pair", pair]) == 2
        assert "--pair must be two languages" in capsys.readouterr().err
