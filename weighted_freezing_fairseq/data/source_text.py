"""A raw sentence as the source side of a model has it: the text steps of a recipe, then subwords."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import subwords
from .cleaning import clean_evaluation
from .recipe import Recipe


@dataclass(frozen=True)
class SourceText:
    """How sentences become the words of a model's source dictionary.

    Args:
        languages: source and target.
        model: a SentencePiece model, or the codes of subword-nmt; None if the text is in subwords already.
        recipe: the text steps before that; None if there are none.
        language: of the sentences (None: the source).
        tag: the symbol that begins each sentence ("": none).
    """

    languages: tuple[str, str]
    model: Path | None
    recipe: Recipe | None = None
    language: str | None = None
    tag: str = ""

    @property
    def is_bpe(self) -> bool:
        """Whether the subwords are those of subword-nmt."""
        return self.model is not None and subwords.is_bpe(self.model)

    @property
    def has_bytes(self) -> bool:
        """Whether letters that the subwords lack are written as bytes."""
        return self.model is not None and not self.is_bpe and subwords.has_bytes(self.model)

    def pieces(self, sentences: Sequence[str]) -> list[str]:
        """Each sentence in subwords, separated by spaces."""
        if self.recipe is not None:
            languages = self.language or self.languages[0], self.languages[1]
            pairs = clean_evaluation(self.recipe, languages, [(sentence, "") for sentence in sentences])
            sentences = [source for _, (source, _) in pairs]
        lines = list(sentences) if self.model is None else subwords.pieces_of(self.model, sentences)
        return [f"{self.tag} {line}" if self.tag and line else line for line in lines]

    def refuse_unusable(self) -> None:
        """Raise unless the subwords can be read and the packages for the text steps are installed."""
        try:
            self.pieces(["a"])
        except ImportError as error:
            raise UserError(f"this text needs the package {error.name}; type: pip install {error.name}") from None
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.model} is neither a SentencePiece model nor codes of subword-nmt ({error}); give "
                "--subword-model the file that the training data was cut with"
            ) from None


def source_text_of(
    manifest: Mapping[str, Any], languages: tuple[str, str], model: Path, language: str | None = None
) -> SourceText:
    """How the source text of prepared data becomes words of its dictionary.

    Args:
        languages: source and target of the model.
        language: of the text, where the data has several language pairs.
    """
    recipe, sources = recipe_of(manifest), [pair.partition("-")[0] for pair in manifest.get("pairs", [])]
    tags = manifest.get("tags", False)
    if language is None:
        if sources and (tags or recipe.form == "tokenised"):
            raise UserError(
                f"the model treats {', '.join(sources)} differently; say what the text is: --language {sources[0]}"
            )
        return SourceText(languages, model, recipe)
    if language not in (sources or languages[:1]):
        known = sources or languages[:1]
        raise UserError(f"the model translates from {', '.join(known)}, got {language!r}; type --language {known[0]}")
    return SourceText(languages, model, recipe, language, subwords.tag(language) if tags else "")


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that prepared data was made by, from its manifest."""
    names = {field.name for field in fields(Recipe)}
    return partial(Recipe, what="")(**{name: value for name, value in manifest["steps"].items() if name in names})
