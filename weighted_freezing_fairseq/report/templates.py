"""Render the HTML templates of this folder to self-contained pages."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import __version__

GENERATOR = "weighted_freezing_fairseq"


def rendered(template: str, **values: Any) -> str:
    """The page of `template`, with all values escaped. Its filter `code` turns text in backticks into code."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["code"] = with_code
    return environment.get_template(template).render(generator=f"{GENERATOR} {__version__}", **values).lstrip()


def with_code(text: str) -> Markup:
    """`text` as HTML, with text in backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
