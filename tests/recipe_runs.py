"""What tests of `wff` share: a call of it, one that is killed, and a YAML with few updates."""

import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import warm_python

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def command(*words):
    return [sys.executable, "-m", "weighted_freezing_fairseq", *map(str, words)]


def start(*words, **pipes):
    """The real command, forked from a warm Python as are the commands that it runs itself (warm_python.py)."""
    return warm_python.popen()(command(*words), **pipes)


def finished(call, **options):
    """`subprocess.run` of a call of Python, with its output, started warm."""
    call, pipe = list(map(str, call)), subprocess.PIPE
    with warm_python.popen(call[0])(call, stdout=pipe, stderr=pipe, text=True, **options) as process:
        out, errors = process.communicate(timeout=900)
    return subprocess.CompletedProcess(call, process.returncode, out, errors)


def wff(*words):
    return finished(command(*words))


def kill_when_there(goal, *words):
    """kill -9 a recipe as soon as the checkpoint `goal` exists; what it started dies with it, at once."""
    process = start(*words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not goal.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9 and goal.exists()
    time.sleep(1)
    size = (goal.parents[1] / "train.log").stat().st_size
    time.sleep(2)
    assert (goal.parents[1] / "train.log").stat().st_size == size


def shortened(name, folder, updates, every, log_interval):
    """A copy of configs/`name` in `folder`: a tiny model, with few updates, validated, saved and logged every few."""
    text = (CONFIGS / name).read_text()
    text, models = re.subn(r"\{layers: .*\}", "{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}", text)
    assert models == 2
    text = re.sub(r"max_update: \d+", f"max_update: {updates}", text)
    text = re.sub(r"(validate|save)_interval_updates: \d+", rf"\1_interval_updates: {every}", text)
    text = re.sub(r"log_interval: \d+", f"log_interval: {log_interval}", text)
    path = folder / Path(name).name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@cache
def differences(folder):
    """Each YAML of `folder`: its settings, and the sections in which they are not those of its standard.yaml."""
    from omegaconf import OmegaConf

    found = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (CONFIGS / folder).rglob("*.yaml")}
    standard = found["standard"]
    return {
        name: (cfg, {part for part in cfg.keys() | standard.keys() if cfg.get(part) != standard.get(part)})
        for name, cfg in found.items()
    }
