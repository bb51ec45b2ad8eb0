"""`python -m weighted_freezing_fairseq.hydra_train`: fairseq-hydra-train with this package registered first.

fairseq-hydra-train checks the YAML and the command line before it loads --user-dir: it refuses `log_importance`, and
every `section.key=value` whose key the YAML leaves out. Here both are accepted, and `optimizer=NAME` is short for
`optimizer._name=NAME`, which keeps the other settings of the section.
"""

import re
import sys
from collections.abc import Collection
from typing import Any

from weighted_freezing_fairseq.errors import UserError

FIRST_UPDATE = "the first update since the start is made"  # logged by the trainer; recipes wait for this line


def as_override(word: str, choices: Collection[str]) -> str:
    """A word of the command line, in Hydra's spelling of a setting that the YAML may leave out (`++section.key=value`).

    Args:
        choices: the sections whose `_name` selects a method.
    """
    key, equals, value = word.partition("=")
    if not equals or not re.fullmatch(r"[a-z]\w*(\.\w+)*", key) or key.startswith("hydra."):
        return word
    if "." in key:
        return f"++{word}"
    if key in choices and value == "null":
        raise UserError(f"{word}: must be a name; type {key}=NAME, or leave it out")
    # One of fairseq's YAML files, such as model=wav2vec2/wav2vec2_base, is no name of a method.
    return f"++{key}._name={value}" if key in choices and "/" not in value else word


if __name__ == "__main__":
    from weighted_freezing_fairseq import errors, register

    register()  # before the import, which logs warnings that a mend hides
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq_cli import hydra_train
    from hydra.core.override_parser.types import Override

    if hasattr(Override, "is_force_add"):  # Hydra 1.0, of fairseq 0.12.2, has no ++
        choices = [name for name, field in FairseqConfig.__dataclass_fields__.items() if field.type is Any]
        with errors.one_line_user_errors():
            sys.argv[1:] = [as_override(word, choices) for word in sys.argv[1:]]
    hydra_train._hydra_main = errors.one_line_user_errors()(hydra_train._hydra_main)
    hydra_train.cli_main()
