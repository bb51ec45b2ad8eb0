"""From text files of one's own to a translated file and a report, by the commands that a user types."""

import random

import pytest
from recipe_runs import shortened, wff


@pytest.mark.slow
def test_from_files_to_a_translation_and_a_report(tmp_path):
    rng = random.Random(7)
    lines = [
        " ".join(rng.choice(["ab", "Cd.", "efg", "h", "i j"]) for _ in range(rng.randint(2, 7))) for _ in range(300)
    ]
    for language, texts in (("xx", lines), ("yy", [line[::-1] for line in lines])):
        (tmp_path / f"a.{language}").write_text("".join(f"{text}\n" for text in texts))
    data, runs, configs = (tmp_path / name for name in ("data", "runs", "configs"))

    def typed(*words):
        done = wff(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    files = [tmp_path / "a.xx", tmp_path / "a.yy"]
    words = ["--valid-lines", 20, "--test-lines", 10, "--pieces", 40, "--name", "mine", "--lowercase", "--jobs", 1]
    shown = typed("prepare", "own", "--pair", "xx-yy", "--train", *files, *words, "--out", data)
    assert f"next: wff train own --data {data} --recipe mine --pair xx-yy" in shown
    for method in ("standard", "sage"):
        shortened(f"own/tiny/{method}.yaml", configs, updates=20, every=10, log_interval=5)
        words = ["--recipe", "mine", "--pair", "xx-yy", "--method", method, "--configs", configs, "--device", "cpu"]
        typed("train", "own", "--data", data, *words, "--out", runs)
    folder = runs / "mine/xx-yy"
    methods = [folder / "standard-1", folder / "sage-1"]
    shown = typed("evaluate", *methods, "--choices", "best", "--device", "cpu")
    assert shown.count("10 sentences") == 2 and "the recipe lowercases its text" in shown
    table = typed("report", runs, "--out", tmp_path / "report")
    assert "own, recipe mine, training" in table and "| `sage`" in table
    assert "- lowercased BLEU: `nrefs:1|case:lc" in table
    assert "10 sentences" in typed("compare", *methods, "--most", 0)
    text = tmp_path / "data/mine/xx-yy/raw/test.xx"
    words = ["--input", text, "--output", tmp_path / "out.yy", "--choice", "best", "--device", "cpu"]
    typed("translate", methods[0], *words)
    assert (tmp_path / "out.yy").read_text() == (methods[0] / "scores/test.best.hyp.txt").read_text()
