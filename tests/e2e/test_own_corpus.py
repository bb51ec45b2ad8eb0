"""From text files of one's own to a translated file and a report, by the commands that a user types."""

import random

from recipe_runs import shortened, wff


def typed(*words):
    done = wff(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_files_to_a_translation_and_a_report(tmp_path):
    rng = random.Random(7)
    lines = [
        " ".join(rng.choice(["ab", "Cd.", "efg", "h", "i j"]) for _ in range(rng.randint(2, 7))) for _ in range(300)
    ]
    for language, texts in (("xx", lines), ("yy", [line[::-1] for line in lines])):
        (tmp_path / f"a.{language}").write_text("".join(f"{text}\n" for text in texts))
    data, runs, configs = (tmp_path / name for name in ("data", "runs", "configs"))

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


def test_three_languages_into_one_are_one_model_that_is_scored_on_each(tmp_path):
    rng = random.Random(3)
    data, runs, configs = (tmp_path / name for name in ("data", "runs", "configs"))
    train, tests = [], []
    for language, letter in (("aa", "a"), ("bb", "b"), ("cc", "c")):
        lines = [" ".join(letter + rng.choice(["x", "yz", "w."]) for _ in range(rng.randint(2, 6))) for _ in range(90)]
        for kind, texts in (("a", lines), ("t", [f"{line} {letter}" for line in lines[:8]])):
            for side, of_side in ((language, texts), ("yy", [text.replace(letter, "o") for text in texts])):
                name = tmp_path / f"{kind}.{language}.{side}"
                name.write_text("".join(f"{text}\n" for text in of_side))
            (train if kind == "a" else tests).append(f"{tmp_path}/{kind}.{language}.{language},{name}")
    pairs = ["aa-yy", "bb-yy", "cc-yy"]
    words = ["--train", *(f"{pair}={files}" for pair, files in zip(pairs, train, strict=True)), "--tags"]
    words += ["--test", *(f"{pair}:news={files}" for pair, files in zip(pairs[:2], tests[:2], strict=True))]
    words += [
        "--valid-lines",
        5,
        "--test-lines",
        6,
        "--pieces",
        290,
        "--subwords",
        "byte-bpe",
        "--name",
        "three",
        "--jobs",
        1,
        "--out",
        data,
    ]
    assert "--recipe three --pair mul-yy" in typed("prepare", "own", "--pairs", ",".join(pairs), *words)
    shortened("multi30k/standard.yaml", configs, updates=20, every=10, log_interval=5)
    words = ["--recipe", "three", "--pair", "mul-yy", "--configs", configs, "--device", "cpu", "--out", runs]
    typed("train", "own", "--data", data, *words)
    run = runs / "three/mul-yy/standard-1"
    shown = typed("evaluate", run, "--choices", "best", "--device", "cpu")
    for subset, name, count in (("test", "aa-yy:news", 8), ("test1", "bb-yy:news", 8), ("test2", "cc-yy", 6)):
        assert f"{run}/scores/{subset}.best  {name}: BLEU" in shown and f"  {count} sentences" in shown
    assert "mul-yy, bb-yy:news: 8 sentences" in typed("report", runs, "--out", tmp_path / "report")
    text = data / "three/mul-yy/raw/test1.mul"
    words = ["--input", text, "--output", tmp_path / "out.yy", "--choice", "best", "--device", "cpu"]
    typed("translate", run, "--language", "bb", *words)
    translations = (tmp_path / "out.yy").read_text()
    assert translations == (run / "scores/test1.best.hyp.txt").read_text() and "<0x" not in translations
