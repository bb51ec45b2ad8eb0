"""The HTML templates of this folder, rendered to pages that need no other file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .. import __version__

MADE_BY = f"weighted_freezing_fairseq {__version__}"


def rendered(template: str, **values: Any) -> str:
    """The page of `template` with these values, every one of them escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(made_by=MADE_BY, **values).lstrip()
