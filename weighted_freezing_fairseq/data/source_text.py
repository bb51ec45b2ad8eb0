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
    """

    languages: tuple[str, str]
    model: Path | None
    recipe: Recipe | None = None

    @property
    def is_bpe(self) -> bool:
        """Whether the subwords are those of subword-nmt."""
        return self.model is not None and subwords.is_bpe(self.model)

    def pieces(self, sentences: Sequence[str]) -> list[str]:
        """Each sentence in subwords, separated by spaces."""
        if self.recipe is not None:
            pairs = clean_evaluation(self.recipe, self.languages, [(sentence, "") for sentence in sentences])
            sentences = [source for _, (source, _) in pairs]
        if self.model is None:
            return list(sentences)
        return subwords.pieces_of(self.model, sentences)

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


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that prepared data was made by, from its manifest."""
    names = {field.name for field in fields(Recipe)}
    return partial(Recipe, what="")(**{name: value for name, value in manifest["steps"].items() if name in names})
