"""`wff translate`: models of a few updates, whose translations must be those of fairseq-generate."""

import io
import random
import signal
import subprocess
import time
from contextlib import closing

import pytest
from fairseq_runs import USER_DIR, Fairseq
from recipe_runs import start, wff

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import subwords

SEARCH = ["--beam", "3", "--max-len-b", "12"]  # that of fairseq with --max-len-a depends on the batch


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A corpus that wff has not prepared, cut by SentencePiece, and two short trainings on it."""
    folder, rng = tmp_path_factory.mktemp("own"), random.Random(3)
    for split, count in (("train", 200), ("valid", 10), ("test", 23)):
        lines = [
            " ".join(rng.choice(["ab", "cde", "Fgh", "i", "jk!"]) for _ in range(rng.randint(2, 8)))
            for _ in range(count)
        ]
        (folder / f"{split}.x").write_text("".join(f"{line}\n" for line in lines))
        (folder / f"{split}.y").write_text("".join(f"{line[::-1]}\n" for line in lines))
    model = folder / "own.model"
    subwords.learn_pieces([folder / "train.x", folder / "train.y"], model, 40)
    for path in folder.glob("*.[xy]"):
        pieces = subwords.pieces_of(model, path.read_text().splitlines())
        path.with_name(f"cut.{path.name}").write_text("".join(f"{line}\n" for line in pieces))
    fairseq = Fairseq(folder / "bin", folder)
    words = ["-s", "x", "-t", "y", "--destdir", folder / "bin", "--workers", 1, "--joined-dictionary"]
    words += [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / f"cut.{split}")]
    fairseq("preprocess", *words)
    for seed in (1, 2):
        fairseq.train(f"run-{seed}", "--optimizer", "adam", "--max-update", 60, "--seed", seed)
    return fairseq


def generated(own, *checkpoints, nbest=1):
    """Score and text of each hypothesis of the test set, by fairseq-generate."""
    words = [own.data, "--user-dir", USER_DIR, "--path", ":".join(map(str, checkpoints)), "--cpu", *SEARCH]
    words += ["--remove-bpe", "sentencepiece", "--required-batch-size-multiple", 1, "--nbest", nbest]
    output = own("generate", *words)
    lines = [line.split("\t") for line in output.splitlines() if line.startswith("D-")]
    lines.sort(key=lambda line: int(line[0][2:]))  # stable: the order of hypotheses stays
    return [(float(score), text) for _, score, text in lines]


def words_of(own, *runs):
    """A call without input and output."""
    return ["translate", *runs, "--subword-model", own.folder / "own.model", "--device", "cpu", *SEARCH]


def translate(own, runs, *words):
    done = wff(*words_of(own, *runs), *words)
    assert done.returncode == 0, done.stderr
    return done


def test_a_text_is_translated_as_fairseq_generate_does(own):
    done = translate(own, [own.folder / "run-1"], "--input", own.folder / "test.x", "--chunk", 10)
    expected = [text for _, text in generated(own, own.folder / "run-1/checkpoint_last.pt")]
    assert done.stdout.splitlines() == expected and len(set(expected)) > 3
    assert "translating with" in done.stderr and "run-1/checkpoint_last.pt" in done.stderr


def test_an_ensemble_with_scores_and_several_translations(own):
    runs = [own.folder / "run-1/checkpoint_last.pt", own.folder / "run-2"]
    done = translate(own, runs, "--input", own.folder / "test.x", "--nbest", 2, "--scores")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    expected = generated(own, runs[0], runs[1] / "checkpoint_last.pt", nbest=2)
    assert [text for _, text in rows] == [text for _, text in expected] and len(rows) == 46
    assert [float(score) for score, _ in rows] == pytest.approx([score for score, _ in expected], abs=2e-4)


def test_standard_input_with_empty_and_odd_lines_stays_aligned(own):
    text = "\ufeffab cde\r\n\n   \nab\u2028cde\nab cde"  # a byte order mark, a line end inside a line, no last line end
    with start(*words_of(own, own.folder / "run-1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        lines = process.communicate(text.encode(), timeout=120)[0].decode().split("\n")
    assert process.returncode == 0 and len(lines) == 6 and lines[1] == lines[2] == lines[5] == ""
    assert lines[0] and lines[0] == lines[3] == lines[4]


def test_each_line_is_answered_at_once_with_a_chunk_of_one(own):
    words = [*words_of(own, own.folder / "run-1"), "--chunk", 1]
    process = start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process, closing(process.stdin) as stdin:
        for line in (b"ab cde\n", b"\n", b"Fgh i\n"):
            stdin.write(line)
            stdin.flush()
            answer = process.stdout.readline()  # before the next line is written
            assert bool(answer.strip()) == bool(line.strip())


def test_a_killed_translation_goes_on_and_other_settings_are_refused(own, tmp_path, capsys):
    long = tmp_path / "long.x"
    long.write_text((own.folder / "test.x").read_text() * 20)
    words = [*words_of(own, own.folder / "run-1"), "--input", long, "--chunk", 23, "--output"]
    out, part = tmp_path / "long.y", tmp_path / ".long.y.part"
    process = start(*words, out, stderr=subprocess.DEVNULL)
    while not (part.is_file() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not out.exists()
    with part.open("ab") as file:
        file.write(b"half a li")  # what a kill may leave
    assert main([*map(str, words), str(out), "--nbest", "2"]) == 2
    assert "of another input or by other settings; to start anew, type: rm" in capsys.readouterr().err
    done = wff(*words, out)
    assert done.returncode == 0 and "going on after" in done.stderr
    expected = [text for _, text in generated(own, own.folder / "run-1/checkpoint_last.pt")]
    assert out.read_text().splitlines() == expected * 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [".long.y.lock", "long.x", "long.y"]


def test_a_line_that_is_too_long_is_named_or_left_empty(own, tmp_path):
    (tmp_path / "long.x").write_text("ab\n" + "ab " * 1100 + "\nab\n")
    words = [*words_of(own, own.folder / "run-1"), "--input", tmp_path / "long.x"]
    done = wff(*words)
    assert done.returncode == 2 and "line 2 has " in done.stderr.splitlines()[-1]
    assert "the model reads at most 1,024; split the line, or add --skip-long" in done.stderr
    done = wff(*words, "--skip-long")
    first, empty, last = done.stdout.split("\n")[:3]
    assert done.returncode == 0 and first == last != empty == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{run}", "--input", "{run}/no"], "no; give --input a text file, or - for standard input"),
        (["{run}", "--output", "{run}/checkpoint_last.pt"], "exists and is not overwritten; give another --out"),
        (["{run}"], "add --subword-model FILE, a SentencePiece model or codes of subword-nmt"),
        (["{run}", "--subword-model", "{own}/train.x"], "neither a SentencePiece model nor codes of subword-nmt"),
        (["{run}", "--choice", "best"], "there is no {run}/checkpoint_best.pt (checkpoints there: checkpoint_last.pt)"),
        (["{run}", "--data", "{run}"], "there are no dictionaries of {run}/checkpoint_last.pt in {run}; add --data"),
        (["{run}", "--nbest", "0"], "--nbest must be at least 1, got 0"),
        (["{run}", "--subword-model", "{own}/own.model", "--nbest", "9"], "must be at most the beam, 5; type --beam 9"),
        (["{own}/train.x"], "give one that fairseq-train saved"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_to_type(own, words, expected, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\n")))
    names = {"run": own.folder / "run-1", "own": own.folder}
    assert main(["translate", *(word.format(**names) for word in words), "--device", "cpu"]) == 2
    assert expected.format(**names) in capsys.readouterr().err.splitlines()[-1]
