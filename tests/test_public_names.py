"""The public names of the package are the same for Python, which imports them on demand, and for type checkers."""

import ast
import importlib
from pathlib import Path

import pytest

import weighted_freezing_fairseq as package


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
