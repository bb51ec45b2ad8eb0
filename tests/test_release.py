"""What a release says of itself: the citation, the changelog and the package have one version."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

import weighted_freezing_fairseq
from weighted_freezing_fairseq.core.rules import RULES

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

# Of the Citation File Format 1.2.0: the keys of the file and of a reference that are used here, and what they hold.
TEXT, NUMBER = str, int
KEYS = {
    "cff-version": TEXT, "message": TEXT, "title": TEXT, "abstract": TEXT, "type": TEXT, "version": TEXT,
    "date-released": datetime.date, "license": TEXT, "keywords": list, "authors": list, "references": list,
}  # fmt: skip
REFERENCE_KEYS = {
    "type": TEXT, "title": TEXT, "authors": list, "year": NUMBER, "journal": TEXT, "volume": NUMBER, "issue": NUMBER,
    "start": NUMBER, "end": NUMBER, "doi": TEXT, "identifiers": list, "collection-title": TEXT, "conference": dict,
    "institution": dict, "notes": TEXT,
}  # fmt: skip


def test_the_citation_is_a_complete_cff_file():
    assert {key: type(value) for key, value in CITATION.items()} == KEYS
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software" and CITATION["license"] == "MIT"
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"])
    assert all(author.keys() == {"name"} for author in CITATION["authors"])


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda reference: reference["notes"])
def test_each_reference_is_complete_and_says_what_the_readme_says(reference):
    assert {"type", "title", "authors", "year"} <= reference.keys()
    assert all(isinstance(value, REFERENCE_KEYS[key]) for key, value in reference.items())
    assert reference["type"] in ("article", "conference-paper")
    assert all(author.keys() == {"family-names", "given-names"} for author in reference["authors"])
    assert all(identifier.keys() == {"type", "value"} for identifier in reference.get("identifiers", []))
    assert re.fullmatch(r"10\.\d{4,9}/\S+", reference.get("doi", "10.1073/x"))
    assert reference.get("conference", {"name": ""}).keys() == {"name"}

    (line,) = [line for line in README.splitlines() if f"*{reference['title']}*" in line]
    assert f" {reference['year']}, *" in line and f"| {reference['authors'][0]['family-names']}" in line
    assert all(identifier["value"] in line for identifier in reference.get("identifiers", []))


def test_every_method_has_its_paper():
    cited = {name for reference in CITATION["references"] for name in re.findall(r"\w+", reference["notes"])}
    assert {*RULES, "r_drop", "switch_transformer"} <= cited


def test_the_versions_are_one():
    version = weighted_freezing_fairseq.__version__
    heading, newest = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)[:2]
    assert heading == "Unreleased" and newest == f"{version} - {CITATION['date-released']}"
    assert CITATION["version"] == version


@pytest.mark.parametrize(
    "name, required", [("bug_report", "command log expected doctor"), ("method_request", "source row example")]
)
def test_an_issue_form_asks_for_what_is_needed(name, required):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = {field["id"]: field for field in form["body"] if field["type"] != "markdown"}
    assert [key for key, field in fields.items() if field.get("validations") == {"required": True}] == required.split()
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in fields.values())
