"""`python -m ...predict`: the labels that a fine-tuned checkpoint gives every sentence of some sets, in their order.

A process of its own, as fairseq-generate is for translation. It says how far it is on standard output, and leaves one
line a sentence in FOLDER/SPLIT. Left out on purpose: scores, which need no model (`evaluate.py`).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils

from weighted_freezing_fairseq import register
from weighted_freezing_fairseq.scoring.sentences.evaluate import DONE


def predictions(model: Any, task: Any, split: str, batch: int, scale: float, device: str) -> Iterator[tuple[int, str]]:
    """The place of each sentence in the set, and its label, long and short sentences in batches of their own."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    order = sorted(range(len(dataset)), key=lambda number: int(dataset.num_tokens(number)))
    head = task.cfg.classification_head_name
    for first in range(0, len(order), batch):
        sample = dataset.collater([dataset[number] for number in order[first : first + batch]])
        sample = utils.move_to_cuda(sample) if device == "cuda" else sample
        with torch.no_grad():
            outputs, _ = model(**sample["net_input"], features_only=True, classification_head_name=head)
        if task.cfg.regression_target:
            found = [repr(scale * float(value)) for value in outputs.view(-1)]
        else:
            names = task.label_dictionary
            found = [names[int(value) + names.nspecial] for value in outputs.argmax(1)]
        yield from zip(sample["id"].tolist(), found, strict=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("checkpoint", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("splits", nargs="+")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--scale", type=float)
    parser.add_argument("--device")
    args = parser.parse_args()
    settings = {"data": str(args.data)}
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(args.checkpoint)], arg_overrides=settings)
    model.eval()
    if args.device == "cuda":
        model.cuda()
    done = 0
    for split in args.splits:
        found: dict[int, str] = {}
        for place, label in predictions(model, task, split, args.batch, args.scale, args.device):
            found[place] = label
            if (done := done + 1) % args.batch == 0:
                print(f"{DONE}{done}", flush=True)
        (args.out / split).write_text("".join(f"{found[place]}\n" for place in range(len(found))), encoding="utf-8")


if __name__ == "__main__":
    register()  # the checkpoint may name what this registers
    main()
