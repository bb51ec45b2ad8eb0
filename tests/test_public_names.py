"""The public names are the same for Python, type checkers and the API reference, and their examples run."""

import ast
import doctest
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import weighted_freezing_fairseq as package

FOLDER = Path(package.__file__).parent
PUBLIC = [name for name in package.__all__ if name != "__version__"]
WITH_EXAMPLES = sorted(
    ".".join(("weighted_freezing_fairseq", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_type_checkers_see_every_public_name_where_python_finds_it():
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    declared = {alias.asname: (line.module, alias.name) for line in block.body for alias in line.names}
    assert declared == {name: (module, name) for name, module in package._PUBLIC.items()}


@pytest.mark.parametrize("name", package._PUBLIC)
def test_a_public_name_is_there(name):
    module = importlib.import_module(f"weighted_freezing_fairseq.{package._PUBLIC[name]}")
    assert getattr(package, name) is getattr(module, name)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        package.nonesuch  # noqa: B018


def test_the_api_reference_has_every_public_name_once():
    pages = (FOLDER.parent / "docs/api").glob("*.md")
    documented = [
        name for page in pages for name in re.findall(r"^::: weighted_freezing_fairseq\.(\w+)$", page.read_text(), re.M)
    ]
    assert Counter(documented) == Counter(PUBLIC)
    index = (FOLDER.parent / "docs/api/index.md").read_text()
    assert all(f"`{name}`" in index for name in PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(package, name))])
def test_every_public_class_has_an_example_and_every_argument_its_line(name):
    public = getattr(package, name)
    text = inspect.getdoc(public) or ""
    assert text, f"{name} needs a docstring"
    if inspect.isclass(public):
        assert ">>> " in text, f"{name} needs an example"
    if "Args:" in text:
        documented = set(re.findall(r"^    \**(\w+): ", text, re.MULTILINE))
        for other in re.findall(r"The other arguments are those of `(\w+)`", text):
            documented |= inspect.signature(getattr(package, other)).parameters.keys()
        assert inspect.signature(public).parameters.keys() <= documented


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run_as_they_are_printed(module):
    """With no other names than those that they import."""
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(importlib.import_module(module), globs={}):
        runner.run(example)
    assert runner.tries and not runner.failures
