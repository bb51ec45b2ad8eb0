"""What a file must hold before a command uses it: JSON, and the headers of tensor files, checked when they are read.

A form is a type, a tuple of types, a dict of forms (these keys are required, others are allowed), a list of one form
(a list of such items), or a dict with the single key `str` (any names, each with a value of that form).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

NUMBER = (int, float)


def expect(value: Any, form: Any, where: str = "it") -> None:
    """Raise ValueError with the first place at which `value`, which is called `where`, does not have this form."""
    inside = "" if where == "it" else f"{where}."
    if isinstance(form, dict):
        expect(value, dict, where)
        if str in form:
            for name, item in value.items():
                expect(name, str, f"a name in {where}")
                expect(item, form[str], f"{inside}{name}")
            return
        for name, wanted in form.items():
            if name not in value:
                raise ValueError(f"{where} has no {name!r}")
            expect(value[name], wanted, f"{inside}{name}")
    elif isinstance(form, list):
        expect(value, list, where)
        for place, item in enumerate(value):
            expect(item, form[0], f"{where}[{place}]")
    elif not isinstance(value, form):
        types = form if isinstance(form, tuple) else (form,)
        raise ValueError(f"{where} must be {' or '.join(t.__name__ for t in types)}, but is {type(value).__name__}")


def expect_known(value: Any, form: dict[Any, Any]) -> None:
    """Raise ValueError unless `value` is a dict in which the keys of `form` that are there have its forms."""
    expect(value, dict)
    expect(value, {name: wanted for name, wanted in form.items() if name is str or name in value})


class Content(dict[str, Any]):
    """An object of JSON, or a row of a table, of which a missing key says what to type."""

    def __init__(self, content: dict[str, Any], path: Path, remedy: str) -> None:
        super().__init__(content)
        self.path, self.remedy = path, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path} does not say its {key}; {self.remedy}")


def read_json(path: Path, form: dict[Any, Any], remedy: str) -> Content:
    """The object in a JSON file, of which keys may be missing; another form is refused with `remedy`, what to type."""
    with _refusing(path, remedy):
        content = _read(path)
        expect_known(content, form)
    return Content(content, path, remedy)


def read_json_rows(path: Path, form: dict[str, Any], remedy: str) -> list[Content]:
    """The list of objects in a JSON file, each as `read_json` has it."""
    with _refusing(path, remedy):
        rows = _read(path)
        expect(rows, [dict])
        for row in rows:
            expect_known(row, form)
    return [Content(row, path, remedy) for row in rows]


_DEEPEST = 100  # levels of JSON; Python can read more of them than it can compare or write


def _read(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return content
    raise ValueError(f"it has more than {_DEEPEST} levels")


@contextmanager
def _refusing(path: Path, remedy: str) -> Iterator[None]:
    """What is wrong with the JSON at `path` as a UserError with `remedy`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is no {path}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a whole file of JSON: {error}; {remedy}") from None
