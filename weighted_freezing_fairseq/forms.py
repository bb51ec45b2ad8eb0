"""Validation of JSON files, and of the headers of tensor files, when they are read.

A form is a type, a tuple of types, a dict of forms by key (required; other keys are allowed), a list with the form of
its items, or a dict with the single key `str` (any names, with values of one form).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

NUMBER = (int, float)


def expect(value: Any, form: Any, where: str = "it") -> None:
    """Raise ValueError if `value`, which the message calls `where`, does not have the form."""
    prefix = "" if where == "it" else f"{where}."
    if isinstance(form, dict):
        expect(value, dict, where)
        if str in form:
            for name, item in value.items():
                expect(name, str, f"a name in {where}")
                expect(item, form[str], f"{prefix}{name}")
            return
        for name, item_form in form.items():
            if name not in value:
                raise ValueError(f"{where} has no {name!r}")
            expect(value[name], item_form, f"{prefix}{name}")
    elif isinstance(form, list):
        expect(value, list, where)
        for index, item in enumerate(value):
            expect(item, form[0], f"{where}[{index}]")
    elif not isinstance(value, form):
        types = form if isinstance(form, tuple) else (form,)
        raise ValueError(f"{where} must be {' or '.join(t.__name__ for t in types)}, but is {type(value).__name__}")


def expect_known(value: Any, form: dict[Any, Any]) -> None:
    """Raise ValueError if `value` is not a dict, or if an item of it does not have its form; keys may be missing."""
    expect(value, dict)
    expect(value, {name: item_form for name, item_form in form.items() if name is str or name in value})


class Content(dict[str, Any]):
    """A JSON object or a row of a table; access to a missing key raises UserError with what to type."""

    def __init__(self, content: dict[str, Any], path: Path, remedy: str) -> None:
        super().__init__(content)
        self.path, self.remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path} has no {key!r}; {self.remedy}")


def read_json(path: Path, form: dict[Any, Any], remedy: str) -> Content:
    """The object in a JSON file; keys may be missing, another form raises UserError with `remedy` (what to type)."""
    with _user_errors(path, remedy):
        content = _read(path)
        expect_known(content, form)
    return Content(content, path, remedy)


def read_json_rows(path: Path, form: dict[str, Any], remedy: str) -> list[Content]:
    """The list of objects in a JSON file, validated as by `read_json`."""
    with _user_errors(path, remedy):
        rows = _read(path)
        expect(rows, [dict])
        for row in rows:
            expect_known(row, form)
    return [Content(row, path, remedy) for row in rows]


_MAX_LEVELS = 100  # of nested JSON; Python reads more levels than it can compare or write


def _read(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    level = [content]
    for _ in range(_MAX_LEVELS):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return content
    raise ValueError(f"it has more than {_MAX_LEVELS} levels")


@contextmanager
def _user_errors(path: Path, remedy: str) -> Iterator[None]:
    """Raise errors of reading the JSON at `path` as UserError with `remedy`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is no {path}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a valid JSON file: {error}; {remedy}") from None
