"""`wff report`: real sacreBLEU on small run folders, its command line as oracle, what is kept apart or refused."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
from scored_runs import LOG, REFERENCE, SITTING, a_run, translations

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.data import DATASETS, SENTENCES
from weighted_freezing_fairseq.report.tables import sheet_of_paper, write
from weighted_freezing_fairseq.scoring import significance
from weighted_freezing_fairseq.scoring.published import AVERAGE, BASELINE, TABLES
from weighted_freezing_fairseq.scoring.results import Result
from weighted_freezing_fairseq.scoring.scored_runs import ScoredRun, Setting, cost
from weighted_freezing_fairseq.workspace.configs import CONFIGS, methods_in


def refusal(capsys, *words):
    """The one line of a call that is refused."""
    assert main(["report", *map(str, words)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()[-1]


def cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cell(table, method, pair="de-en", recipe="clean"):
    (found,) = [c for c in table if (c["method"], c["pair"], c["recipe"]) == (method, pair, recipe)]
    return found


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    """A half-finished one: seeds in common, some of them, none; no standard; a run without a score."""
    root = tmp_path_factory.mktemp("matrix")
    for seed in (1, 2, 3):
        a_run(root, "standard", seed)
    for seed in (2, 3, 4):
        a_run(root, "weighted_freeze", seed, noise=0.38)
    a_run(root, "sage", 9)
    a_run(root, "weighted_freeze", 1, pair="es-en")
    for seed in (1, 2):
        folder = a_run(root, "ewc", seed)
        shutil.rmtree(folder / "scores")
    (folder / ".training.json").unlink()
    return root


@pytest.fixture(scope="module")
def reported(matrix):
    """The folder of its report."""
    write([matrix / "runs"], matrix / "report")
    return matrix / "report"


# The papers ---------------------------------------------------------------------------------------------------------


def test_every_figure_of_the_papers_is_there():
    counts = {name: (len(table.rows), len(table.pairs)) for name, table in TABLES.items()}
    counted = {"li-2": (2, 1), "li-5": (6, 4), "li-6": (7, 1), "xu-1": (3, 1), "xu-2": (6, 9), "xu-3": (5, 1)}
    assert counts == {
        **counted,
        "li-4": (6, 1),
        "li-4-pawsx": (6, 1),
        "li-6-pawsx": (7, 1),
        "li-7": (6, 3),
        "xu-4": (4, 10),
        "oneill-1": (11, 9),
    }
    assert sum(len(row.figures) for table in TABLES.values() for row in table.rows) == 95 + 6 + 6 + 7 + 18 + 40 + 99
    for table in TABLES.values():
        assert table.rows[0].method == BASELINE
        for rows in ([row.method for row in table.rows], [row.label for row in table.rows]):
            assert len(set(rows)) == len(rows)
        assert all(tuple(row.figures) == table.pairs for row in table.rows)


def test_what_the_papers_did_can_be_prepared_and_trained():
    for table in TABLES.values():
        dataset = {**DATASETS, **SENTENCES}[table.dataset]
        assert {row.method for row in table.rows} <= set(methods_in(CONFIGS.parent / table.configs))
        assert table.recipe in dataset.recipes
        columns = {table.column_of(pair, table.subset) for pair in dataset.pairs} | table.other_sets.keys()
        not_trained = {"ner", "pos"} if table.dataset == "xglue" else set()  # they label words
        assert {*table.pairs} - {AVERAGE} - not_trained <= columns
        for pair, subset in table.other_sets.values():
            assert subset in dataset.tasks[pair].subsets


def test_the_figures_agree_with_each_other_and_with_what_the_papers_say_of_them():
    # the paper prints the mean of its own line
    for row in (*TABLES["xu-2"].rows, *TABLES["xu-4"].rows, *TABLES["oneill-1"].rows):
        pairs = [figure for pair, figure in row.figures.items() if pair != AVERAGE]
        assert row.figures[AVERAGE] == pytest.approx(sum(pairs) / len(pairs), abs=0.0051)
    gain = {row.method: row.figures[AVERAGE] for row in TABLES["xu-2"].rows}
    assert gain["intra_distillation"] - gain["standard"] == pytest.approx(3.54)  # its abstract
    assert gain["intra_distillation"] - gain["intra_distillation_js"] == pytest.approx(0.63)  # section 4.2
    wmt = {row.method: row.figures["en-de"] for row in TABLES["xu-3"].rows}
    assert wmt["intra_distillation"] - wmt["standard"] == pytest.approx(1.06)  # section 4.2
    for paper in ("li", "xu"):  # one model, one figure, in every table of a paper
        seen = {}
        for table in (table for name, table in TABLES.items() if name.startswith(paper)):
            for row in table.rows:
                for pair, figure in row.figures.items():
                    assert seen.setdefault((table.dataset, row.method, pair), figure) == figure


# Significance -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_p_values_are_those_of_the_sacrebleu_command(matrix, reported, tmp_path):
    found = cell(cells(reported / "runs.csv"), "weighted_freeze")
    assert (found["seeds"], found["compared_seeds"], found["n"]) == ("2 3 4", "2 3", "3")
    folder, joined = matrix / "runs/iwslt14-li/clean/de-en", {}
    for method in ("standard", "weighted_freeze"):
        files = [folder / f"{method}-{seed}/scores/test.best.hyp.txt" for seed in (2, 3)]
        joined[method] = tmp_path / method
        joined[method].write_text("".join(file.read_text() for file in files))
    reference = tmp_path / "reference"
    reference.write_text((matrix / "data/iwslt14/clean/de-en/raw/test.en").read_text() * 2)
    for option, name in (("--paired-bs", "p_bootstrap"), ("--paired-ar", "p_randomisation")):
        words = [reference, "-i", *joined.values(), "-m", "bleu", "--format", "json", option]
        done = subprocess.run([sys.executable, "-m", "sacrebleu", *map(str, words)], capture_output=True, text=True)
        system = json.loads(done.stdout)[1]["BLEU"]
        assert float(found[name]) == pytest.approx(system["p_value"], abs=6e-5) and 0.0001 < system["p_value"] < 0.9


def test_the_scores_of_each_run_are_written(matrix, reported):
    raw = cells(reported / "scores.csv")
    assert len(raw) == 3 + 3 + 1 + 1 and "nan" not in str(raw)
    for row in raw:
        folder = matrix / f"runs/iwslt14-li/clean/{row['pair']}/{row['method']}-{row['seed']}/scores"
        written = json.loads((folder / "test.best.json").read_text())
        assert [float(row[name]) for name in ("bleu", "bleu_lowercased", "chrf")] == [
            written["bleu"], written["bleu_lowercased"], written["chrf"]
        ]  # fmt: skip
        assert row["output_sha256"] == hashlib.sha256((folder / "test.best.hyp.txt").read_bytes()).hexdigest()
        assert (row["updates"], row["seconds"], row["best_update"]) == ("200", "3600", "")
    of_standard = [float(row["bleu"]) for row in raw if row["method"] == "standard"]
    assert float(cell(cells(reported / "runs.csv"), "standard")["score"]) == pytest.approx(sum(of_standard) / 3)


def test_mean_deviation_and_difference(matrix, reported):
    folder = matrix / "runs/iwslt14-li/clean/de-en"
    bleu = {
        (method, seed): json.loads((folder / f"{method}-{seed}/scores/test.best.json").read_text())["bleu"]
        for method, seeds in (("standard", (1, 2, 3)), ("weighted_freeze", (2, 3, 4)))
        for seed in seeds
    }
    found = cell(cells(reported / "runs.csv"), "weighted_freeze")
    mine = [bleu["weighted_freeze", seed] for seed in (2, 3, 4)]
    average = sum(mine) / 3
    assert float(found["score"]) == pytest.approx(average)
    assert float(found["score_sd"]) == pytest.approx((sum((value - average) ** 2 for value in mine) / 2) ** 0.5)
    gained = [bleu["weighted_freeze", seed] - bleu["standard", seed] for seed in (2, 3)]
    assert float(found["minus_standard"]) == pytest.approx(sum(gained) / 2)
    in_paper = cell(cells(reported / "li-5.csv"), "weighted_freeze")
    assert float(in_paper["minus_paper"]) == pytest.approx(average - 33.30)
    assert float(in_paper["paper_minus_standard"]) == pytest.approx(33.30 - 32.75)


def test_a_sitting_whose_clock_stood_still_counts_by_its_end(tmp_path):
    end = "[x][fairseq_cli.train][INFO] - done training in 99.6 seconds\n"
    (tmp_path / "log").write_text(
        SITTING + LOG % (50, 0) + LOG % (100, 900) + end + SITTING + LOG % (150, 0) + LOG % (200, 0) + end
    )
    assert cost(tmp_path / "log") == (200, 1000)


def test_a_test_is_made_once(matrix, reported, monkeypatch):
    files = {path.name: path.read_bytes() for path in reported.iterdir()}
    monkeypatch.setattr(significance.Bleu, "p_values", None)
    write([matrix / "runs"], reported)
    assert {path.name: path.read_bytes() for path in reported.iterdir()} == files


def test_other_texts_are_tested_anew(tmp_path):
    a, b = ([translations(noise, seed) for seed in (1, 2)] for noise in (0.41, 0.4))
    kept = tmp_path / "kept.json"
    first = significance.cached_p_values(a[0], b[0], REFERENCE, kept)
    assert significance.cached_p_values(a[0], b[1], REFERENCE, kept) != first
    assert significance.cached_p_values(a[0], b[0], REFERENCE, kept) == first and len(json.loads(kept.read_text())) == 2


# Case --------------------------------------------------------------------------------------------------------------

TRANSLATED = [name for name, table in TABLES.items() if table.dataset in DATASETS]


@pytest.mark.parametrize("name", TRANSLATED)
def test_lowercased_text_is_never_set_beside_a_published_figure_by_a_cased_score(name, tmp_path):
    """Nor cased text by a lowercased one; whatever the recipe."""
    table = TABLES[name]
    recipes, training = DATASETS[table.dataset].recipes, table.configs.removeprefix("configs/")
    for recipe in recipes:
        a_run(tmp_path, "standard", 1, pair=table.pairs[0], recipe=recipe, configs=training, dataset=table.dataset)
    beside = [c for c in write([tmp_path / "runs"], tmp_path / "out", [name]).sheets[name].cells if c.state == "run"]
    assert [c.recipe for c in beside] == sorted(recipes)
    for c in beside:
        scores = tmp_path / "runs" / c.training.removeprefix("configs/") / c.recipe / c.pair / f"{c.method}-1/scores"
        found = json.loads((scores / "test.best.json").read_text())
        lowercased = DATASETS[c.dataset].table[c.recipe].lowercased
        key = "bleu_lowercased" if lowercased else "bleu"
        assert ("case:lc" in c.signature) == lowercased and c.signature == found[f"{key}_signature"]
        assert c.score == found[key] and c.minus_paper == found[key] - c.paper
        assert c.metric == ("lowercased BLEU" if lowercased else "BLEU")
        assert c.cased == (found["bleu"] if lowercased else None)
        assert not lowercased or found["bleu"] < found["bleu_lowercased"] - 1


@pytest.mark.slow
def test_a_lowercased_difference_is_tested_by_lowercased_bleu(tmp_path):
    for seed in (1, 2):
        for method, noise in (("standard", 0.41), ("weighted_freeze", 0.38)):
            a_run(tmp_path, method, seed, noise=noise, recipe="intra-distillation")
    found = write([tmp_path / "runs"], tmp_path / "out", ["li-2", "runs"]).sheets["runs"].cells[1]
    files = [
        tmp_path / f"runs/iwslt14-li/intra-distillation/de-en/{method}-{seed}/scores/test.best.hyp.txt"
        for method in ("standard", "weighted_freeze")
        for seed in (1, 2)
    ]
    texts = [file.read_text() for file in files]
    baseline, system = tmp_path / "baseline", tmp_path / "system"
    baseline.write_text(texts[0] + texts[1])
    system.write_text(texts[2] + texts[3])
    reference = tmp_path / "reference"
    reference.write_text("".join(f"{line}\n" for line in REFERENCE) * 2)
    words = [reference, "-i", baseline, system, "-m", "bleu", "-lc", "--format", "json", "--paired-bs"]
    done = subprocess.run([sys.executable, "-m", "sacrebleu", *map(str, words)], capture_output=True, text=True)
    assert found.p_bootstrap == pytest.approx(json.loads(done.stdout)[1]["BLEU"]["p_value"], abs=6e-5)
    assert "case:lc" in found.bootstrap_signature and "case:lc" in found.randomisation_signature


def test_tables_say_which_score_is_which(tmp_path):
    for recipe in ("clean", "intra-distillation"):
        a_run(tmp_path, "standard", 1, recipe=recipe)
    report = write([tmp_path / "runs"], tmp_path / "out", ["li-2", "li-5", "runs"])
    clean, lowercased = report.sheets["li-2"].grids
    assert "The paper's figures are lowercased BLEU, ours cased BLEU: compare gains over standard." in clean.notes
    assert "The paper's figures and ours are lowercased BLEU: the recipe lowercases its text." in lowercased.notes
    assert "cased BLEU" not in clean.header and lowercased.rows[0][lowercased.header.index("cased BLEU")] != "-"
    assert [
        note
        for note in lowercased.notes
        if note.startswith("cased BLEU, for comparison with other work: `nrefs:1|case:m")
    ]
    clean, lowercased = report.sheets["runs"].grids
    assert clean.header[2:4] == ["BLEU", "chrF"] and lowercased.header[2:5] == ["lowercased BLEU", "chrF", "cased BLEU"]
    assert [note.split("|")[1] for note in lowercased.notes if "BLEU: `nrefs" in note] == ["case:lc", "case:mixed"]
    in_paper = report.sheets["li-5"].grids[2]
    assert "The paper's figures and ours are lowercased BLEU: the recipe lowercases its text." in in_paper.notes


def test_a_lowercased_run_without_a_lowercased_score_must_be_scored_again(tmp_path, capsys):
    folder = a_run(tmp_path, "standard", 1, recipe="intra-distillation")
    path = folder / "scores/test.best.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in found.items() if "lowercased" not in key}))
    line = refusal(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert "has no 'bleu_lowercased'; score the run again: rm" in line


# What is shown ------------------------------------------------------------------------------------------------------


def test_a_half_finished_matrix_reports(reported):
    text = (reported / "report.md").read_text()
    everything, table = cells(reported / "runs.csv"), cells(reported / "li-5.csv")
    assert len(everything) == 4 and len(table) == 24
    assert {cell(everything, *key)["untested"] for key in (("sage",), ("weighted_freeze", "es-en"))} == {
        "no seed in common with standard", "no standard"
    }  # fmt: skip
    assert cell(table, "intra_distillation")["state"] == "not run" and not cell(table, "intra_distillation")["score"]
    assert "| Intra-Distillation (Full) | 33.74 / not run | 39.87 / not run |" in text
    assert cell(cells(reported / "xu-2.csv"), "sage", AVERAGE)["state"] == "1 of 8 pairs"
    assert "nothing was run of: li-4, li-4-pawsx, li-6-pawsx, li-7, oneill-1, xu-3, xu-4" in text
    assert re.search(r"- trained and not scored: 1 runs; type: wff evaluate /\S+/de-en/ewc-1\n", text)
    assert re.search(r"- not done to the end: 1 runs, /\S+/ewc-2 is one; to go on type: wff train .* --seed 2", text)
    assert (
        "wff train iwslt14 --pair es-en --recipe clean --method standard --seed 1 --configs configs/iwslt14-li\n"
        in text
    )


def test_every_cell_says_where_it_comes_from(reported):
    text = (reported / "li-5.md").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith("| Weighted Freezing | `weighted_freeze` | de-en")]
    assert re.fullmatch(
        r"\| Weighted Freezing \| `weighted_freeze` \| de-en \| 33\.30 \(\+0\.55\) \| \d+\.\d\d ± \d+\.\d\d \(3\) "
        r"\| [+-]\d+\.\d\d \| [+-]\d+\.\d\d \(seeds 2 3\) (\| 0\.\d{4} ){3}\| 200 \| a "
        r"\| configs/iwslt14-li/weighted_freeze\.yaml \| abc123 \|", line
    )  # fmt: skip
    assert re.search(r"\n- a: `nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:\S+`\n", text)
    assert re.search(r"\n- p: `nrefs:1\|bs:1000\|seed:12345\|\S+` and `nrefs:1\|ar:10000\|seed:12345\|\S+`\n", text)
    assert "ours: best checkpoint (beam 5, lenpen 1.0)" in text and "The paper: 20,000 updates" in text
    assert "The paper's data is another (intra-distillation): compare gains over standard" in text
    text = (reported / "runs.md").read_text()
    assert text.count("- hours of sage: a GPU\n") == 1
    (line,) = [x for x in text.splitlines() if "| `sage` | 9" in x]
    assert line.endswith(
        "| no seed in common with standard | - | - | - | 200 | 1.00 | configs/iwslt14-li/sage.yaml | abc123 |"
    )


def test_latex_is_whole(reported):
    for name in ("runs", *TABLES):
        text = (reported / f"{name}.tex").read_text()
        tables = text.split(r"\begin{tabular}{")[1:]
        assert len(tables) == text.count(r"\end{tabular}") == text.count(r"\toprule") == text.count(r"\bottomrule") > 0
        for table in tables:
            columns, _, rest = table.partition("}")
            lines = [line for line in rest.split(r"\bottomrule")[0].splitlines() if line.endswith(r"\\")]
            assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in lines) and len(lines) > 1
        assert not re.search(r"(?<!\\)[_#]", text) and "±" not in text and "`" not in text


def test_the_whole_command(matrix, reported, tmp_path, capsys):
    words = ["report", str(matrix / "runs/iwslt14-li"), "--table", "li-2", "--table", "runs", "--out", str(tmp_path)]
    (tmp_path / "significance.json").write_bytes((reported / "significance.json").read_bytes())
    assert main(words) == 0
    text = capsys.readouterr().out
    assert (
        "### Li et al. 2023, Table 2: EWC on a single task. Data: iwslt14, recipe clean; training: configs/iwslt14-li\n"
        in text
    )
    assert "Table 5" not in text and text.endswith(f"\nwrote {tmp_path}/\n")
    names = {f"{name}.{ending}" for name in ("li-2", "runs") for ending in ("md", "tex", "csv")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"report.md", "scores.csv", "significance.json"}
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tables"]["li-2"][1]["paper"] == 33.20 and len(found["tables"]["runs"]) == 4


# What is kept apart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differ", "changed"),
    [("signature", {"bleu_signature": "nrefs:1|version:1.5"}), ("decode", {"decode": {"beam": 4}}),
     ("choice", {"choices": ("last",)}), ("sentences, reference", {"sentences": 29, "reference": "/other/test.en"})],
)  # fmt: skip
def test_runs_of_another_setting_are_never_compared(tmp_path, differ, changed):
    folder = a_run(tmp_path, "standard", 1)
    other = a_run(tmp_path, "sage", 1, **changed)
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs", "li-5"])
    sage = next(cell for cell in report.sheets["runs"].cells if cell.method == "sage")
    assert (sage.untested, sage.p_bootstrap, sage.minus_standard) == ("no standard", None, None)
    again = f"score them alike: rm {folder}/.scoring-*; wff evaluate {folder}"
    (note,) = [note for note in report.notes if "kept apart" in note]
    assert f"runs that differ in {differ} are kept apart (1 and 1 of them); " in note
    assert note.endswith((again, again.replace(str(folder), str(other))))
    if differ == "choice":
        assert "type --choice with one of best, last, or score" in note


def test_a_choice_counts_where_it_is_asked_for(tmp_path):
    a_run(tmp_path, "standard", 1, choices=("best", "last"))
    only_best = a_run(tmp_path, "sage", 1)
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs"], choice="last")
    assert [(c.method, c.choice) for c in report.sheets["runs"].cells] == [("standard", "last")]
    assert report.notes == [f"without a score of choice last: 1 runs; type: wff evaluate {only_best}"]


def test_recipes_have_tables_of_their_own(tmp_path):
    for recipe in ("clean", "intra-distillation"):
        a_run(tmp_path, "standard", 1, recipe=recipe)
    report = write([tmp_path / "runs"], tmp_path / "out", ["li-2"])
    recipes = [re.search("recipe (.*);", grid.title)[1] for grid in report.sheets["li-2"].grids]
    assert recipes == ["clean", "intra-distillation"]
    notes = [" ".join(grid.notes) for grid in report.sheets["li-2"].grids]
    assert ["The paper's data is another" in note for note in notes] == [True, False]


def test_trainings_are_told_by_the_folder_of_their_yamls(tmp_path):
    for configs in ("iwslt14-li", "iwslt14"):
        for method in ("standard", "sage"):
            a_run(tmp_path, method, 1, configs=configs)
    report = write([tmp_path / "runs"], tmp_path / "out")
    assert [cell.training for cell in report.sheets["runs"].cells] == ["configs/iwslt14"] * 2 + [
        "configs/iwslt14-li"
    ] * 2
    assert all(cell.minus_standard is not None for cell in report.sheets["runs"].cells if cell.method == "sage")
    for name in ("li-5", "xu-2"):
        assert {cell.training for cell in report.sheets[name].cells} == {TABLES[name].configs}
    report = write([tmp_path / "runs/iwslt14"], tmp_path / "out", ["li-2"])
    assert report.sheets["li-2"].cells[0].state == "run"
    assert "The paper's training is another (configs/iwslt14-li)." in report.sheets["li-2"].grids[0].notes
    assert not report.notes


def changed(folder, *settings):
    """The run, as if `wff train --set` had been given these."""
    about = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**about, "changed": settings}))


def test_several_trainings_of_one_method_are_not_averaged(tmp_path):
    rate = "optimization.lr=[0.1]"
    a_run(tmp_path, "standard", 1)
    changed(a_run(tmp_path, "standard", 2), rate)
    changed(a_run(tmp_path, "sage", 2), rate)
    changed(a_run(tmp_path, "ewc", 2), "optimization.max_update=9")
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs", "li-2"])
    found = [(c.method, c.seeds, c.compared_seeds, c.untested) for c in report.sheets["runs"].cells]
    assert found == [
        ("standard", "1", "", ""), ("standard", "2", "", ""), ("ewc", "2", "", "several kinds of standard"),
        ("sage", "2", "2", ""),  # with the standard training that was changed as it was
    ]  # fmt: skip
    assert report.sheets["li-2"].cells[0].state == "kept apart"
    notes = report.sheets["runs"].grids[0].notes
    assert len(notes) == len(set(notes)) and "hours of standard: a GPU" in notes
    yaml = "configs/iwslt14-li/standard.yaml"
    assert f"runs of standard with different settings are kept apart ({yaml}; {yaml} {rate}); " in report.notes[0]
    assert "ewc: not tested (several kinds of standard); move those away that are not meant" in report.notes[1]


def test_a_score_of_another_sacrebleu_is_not_tested(tmp_path):
    for method in ("standard", "sage"):
        folder = a_run(tmp_path, method, 1, bleu_signature="nrefs:1|version:1.5")
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs"])
    assert report.sheets["runs"].cells[1].untested == "other sacreBLEU"
    assert f"is installed; score again: rm {folder}/.scoring-*; wff evaluate {folder}" in report.notes[0]


def test_references_may_have_moved(tmp_path):
    for method in ("standard", "sage"):
        a_run(tmp_path, method, 1)
    (tmp_path / "data").rename(tmp_path / "moved")
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs"])
    assert report.sheets["runs"].cells[1].untested == "no reference"
    assert (
        "there is no data/iwslt14/clean/de-en/raw/test.en; add --data, the folder that wff prepare" in report.notes[0]
    )
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs"], data=tmp_path / "moved/iwslt14")
    assert report.sheets["runs"].cells[1].p_bootstrap is not None and not report.notes
    for path in tmp_path.rglob("provenance.json"):  # as wff train and wff evaluate note it
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "data": str(tmp_path / "moved/iwslt14/clean/de-en")}))
    report = write([tmp_path / "runs"], tmp_path / "out", ["runs"])
    assert report.sheets["runs"].cells[1].p_bootstrap is not None and not report.notes


# The average over pairs ---------------------------------------------------------------------------------------------


def result(method, pair, scores, choice="best"):
    """A result without files."""
    setting = Setting("iwslt14", "clean", "configs/iwslt14", pair, "test", choice, "beam 5", 30, "hash", "bleu", "chrf")
    runs = [
        ScoredRun(None, setting, method, "yaml", (), seed, "abc", bleu, 50.0, None, None, None, None, "")
        for seed, bleu in scores.items()
    ]
    return Result(setting, method, "yaml", (), tuple(runs))


def average_of(method, found):
    (cell,) = [c for c in sheet_of_paper("xu-2", found).cells if (c.method, c.pair) == (method, AVERAGE)]
    return cell


def test_the_average_is_that_of_the_seeds_that_all_pairs_have():
    pairs = TABLES["xu-2"].pairs[:-1]
    standard = [result("standard", pair, {1: 20.0 + place, 2: 22.0 + place}) for place, pair in enumerate(pairs)]
    sage = [result("sage", pair, {1: 30.0 + place, 2: 30.0 + place, 3: 90.0}) for place, pair in enumerate(pairs)]
    sage[0] = result("sage", pairs[0], {1: 30.0, 2: 30.0})
    found = average_of("sage", [*standard, *sage])
    # pairs add 0 ... 7, 3.5 on average; seed 3 is not everywhere
    assert (found.score, found.score_sd, found.seeds, found.n) == (33.5, 0.0, "1 2", 2)
    assert found.minus_standard == pytest.approx(9) and found.minus_paper == pytest.approx(33.5 - 31.00)
    assert found.p_bootstrap is None
    assert average_of("standard", [*standard, *sage]).score_sd == pytest.approx(2**0.5)
    assert average_of("sage", sage).minus_standard is None
    assert average_of("sage", [*standard, *sage[1:]]).state == "7 of 8 pairs"
    assert average_of("sage", [result("sage", pairs[0], {1: 30.0}, "last"), *sage[1:]]).state == "kept apart"
    assert average_of("sage", [result("sage", pairs[0], {8: 30.0}), *sage[1:]]).state == "no common seed"


# What is refused ----------------------------------------------------------------------------------------------------


def test_translations_that_are_not_what_was_scored_are_refused(tmp_path, capsys):
    folder = a_run(tmp_path, "sage", 1)
    a_run(tmp_path, "standard", 1)
    file = folder / "scores/test.best.hyp.txt"
    lines = file.read_text().splitlines()
    remedy = f"score the run again: rm {folder}/.scoring-*; wff evaluate {folder}"
    file.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    line = refusal(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert re.search(rf"{file} scores \d+\.\d\d against \S+, not \d+\.\d\d as is recorded; ", line) and remedy in line
    file.write_text("\n".join(lines[1:]))
    line = refusal(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert f"{file} has 29 lines and" in line and "test.en 30, where 30 were scored" in line and remedy in line


def test_files_that_are_broken_say_what_to_type(tmp_path, capsys):
    folder = a_run(tmp_path, "standard", 1)
    for name, remedy in (("scores/test.best.json", "wff evaluate"), ("provenance.json", "train it again, or move")):
        content = (folder / name).read_text()
        for broken, reason in ((content[:20], "is not a valid JSON file"), ("{}", "has no '")):
            (folder / name).write_text(broken)
            line = refusal(capsys, tmp_path / "runs", "--out", tmp_path / "out")
            assert f"{folder / name} {reason}" in line and remedy in line
        (folder / name).write_text(content)


def test_a_folder_without_runs_and_one_run_in_two_places(tmp_path, capsys):
    assert "there is no folder" in refusal(capsys, tmp_path / "none")
    assert "there is no run in" in refusal(capsys, tmp_path)
    folder = a_run(tmp_path, "standard", 1)
    shutil.copytree(folder, tmp_path / "copy")
    line = refusal(capsys, tmp_path, "--out", tmp_path / "out")
    assert "are the same method, seed and configuration; type only one of the folders" in line
    write([tmp_path / "runs", folder], tmp_path / "out", ["runs"])  # the same folder twice is one run
