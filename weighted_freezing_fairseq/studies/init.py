"""`wff init`: the YAML of a method for own files, copied for the user to edit, and the commands that train by it."""

import re
import shlex
from pathlib import Path

from ..data.recipe import OWN
from ..files import refuse_to_overwrite, write_atomically
from ..workspace.configs import CONFIGS, config_path
from ..workspace.progress import say
from .sizes import configs_of
from .tasks import task_of
from .train import Study


def init(pair: str, method: str, size: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the YAML of `method`, and those of the runs that it starts from, to `folder`; these may be there.

    Returns:
        the YAMLs that it wrote, and the commands to type in the same place; in them stand names for the user's files.
    """
    study = Study(task_of(OWN), OWN, Path("data") / OWN, configs_of(size), Path("runs") / folder.resolve().name)
    pair = study.task.pair(pair)
    runs = [study.run(pair, method, 1)]
    while (parent := study.parent(pair, runs[0])) is not None:
        runs.insert(0, parent)
    sources = [config_path(run.method, study.configs) for run in runs]
    goals = [folder / source.name for source in sources]
    refuse_to_overwrite(goals[-1])
    for goal in filter(Path.exists, goals):
        say(f"{goal} is there and not overwritten; {method} starts from its run, so its size must be {size}, too")

    source_language, target_language = pair.split("-")
    places = ["--configs", folder, "--out", study.runs]
    training = [f"train.{source_language}", f"train.{target_language}"]
    letter = ["--input", f"letter.{source_language}", "--out", f"letter.{target_language}"]
    commands = [
        shlex.join(["wff", *map(str, words)])
        for words in (
            ["prepare", OWN, "--pair", pair, "--train", *training],
            *(["train", OWN, "--pair", pair, "--method", run.method, *places] for run in runs),
            ["evaluate", *(run.folder for run in runs)],
            ["translate", runs[-1].folder, *letter],
        )
    ]
    typed = "".join(f"#   {command}\n" for command in commands) + "#\n"
    new = [(source, goal) for source, goal in zip(sources, goals, strict=True) if not goal.exists()]
    for source, goal in new:
        header = f"# A copy of {source.relative_to(CONFIGS.parent)} to edit, made by wff init. What to type:\n"
        # Without the command that ends the header: it names the original.
        text = re.sub(r"#\n#   fairseq-hydra-train(.*\\\n)*.*\n", "", source.read_text(encoding="utf-8"), count=1)
        write_atomically(goal, header + typed + text)
    return [goal for _, goal in new], commands
