"""Public test sets by their name, through sacreBLEU: from its cache, or downloaded to it."""

from pathlib import Path

from ..errors import UserError
from ..workspace.progress import say


def is_test_set(name: str) -> bool:
    """Whether sacreBLEU knows a test set of this name."""
    import sacrebleu

    return name in sacrebleu.get_available_testsets()


def pairs_of(name: str) -> list[str]:
    """The language pairs of a test set."""
    import sacrebleu

    return sorted(sacrebleu.get_langpairs_for_testset(name))


def files_of(name: str, pair: str) -> tuple[Path, Path]:
    """Source and first reference of a test set, one sentence per line, in sacreBLEU's cache."""
    import sacrebleu

    try:
        source, references = sacrebleu.get_source_file(name, pair), sacrebleu.get_reference_files(name, pair)
    except (Exception, SystemExit) as error:  # of every kind: of the network, of archives, of files that are not there
        cache, reason = sacrebleu.SACREBLEU_DIR, str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name} of {pair} is not complete in sacreBLEU's cache, {cache}, and cannot be downloaded ({reason}); "
            f"where there is a network, type: sacrebleu --download {name} --language-pair {pair}, and copy "
            f"{cache}/{name} to this machine; or name another cache: export SACREBLEU=DIR"
        ) from None
    if len(references) > 1:
        say(f"{name} of {pair} has {len(references)} references; the first one is taken")
    return Path(source), Path(references[0])
