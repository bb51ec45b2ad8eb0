"""HTML from Python: elements as functions, every text escaped unless an element made it.

What is not `Markup` is text, so that a method called `<script>` is read and never run. Left out on purpose: templates,
which escape where their writer remembers to.
"""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

_EMPTY = frozenset({"meta", "img", "source"})  # elements of HTML without an end


class Markup(str):
    """A piece of HTML that is whole and safe."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str) -> Markup:
    """`<name attribute="...">content</name>`; an underscore ends an attribute's name that Python has for itself."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>" if name in _EMPTY else f"<{name}{given}>{joined(content)}</{name}>")


def joined(content: Iterable[str], between: str = "") -> Markup:
    """Pieces one after another, those that are text escaped."""
    return Markup(escaped(between).join(map(escaped, content)))


def escaped(text: str) -> Markup:
    """`text` with nothing left in it that means something in HTML."""
    return text if isinstance(text, Markup) else Markup(escape(text))


def with_code(text: str) -> Markup:
    """A text of which what stands in backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick that has no other
        return escaped(text)
    return joined(element("code", part) if place % 2 else part for place, part in enumerate(parts))


def command(text: str) -> Markup:
    """What a reader types."""
    return element("pre", element("code", text), class_="command", tabindex="0")


def picture(wide: Path, narrow: Path, about: str, caption: str) -> Markup:
    """An SVG inside the page, for screens and paper and for phones; `about` says what is seen to who cannot see it."""
    small = element("source", media="(max-width: 40rem)", srcset=_data(narrow))
    image = element("img", src=_data(wide), alt=about)
    return element("figure", element("picture", small, image), element("figcaption", with_code(caption)))


def _data(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
