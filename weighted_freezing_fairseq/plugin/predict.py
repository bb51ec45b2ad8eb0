"""`python -m ...plugin.predict`: write the labels that a fine-tuned checkpoint predicts for whole data sets.

It runs in a separate process, like fairseq-generate for translation. It writes one line per sentence to OUT/SPLIT, in
the order of the set, and prints the number of finished sentences after the text of --progress.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils

from weighted_freezing_fairseq import register


def predictions(model: Any, task: Any, split: str, batch: int, scale: float, device: str) -> Iterator[tuple[int, str]]:
    """Yield the index of each sentence in the set and its label; sentences of similar length share a batch."""
    task.load_dataset(split)
    dataset = task.dataset(split)
    order = sorted(range(len(dataset)), key=lambda index: int(dataset.num_tokens(index)))
    head = task.cfg.classification_head_name
    for first in range(0, len(order), batch):
        sample = dataset.collater([dataset[index] for index in order[first : first + batch]])
        sample = utils.move_to_cuda(sample) if device == "cuda" else sample
        with torch.no_grad():
            outputs, _ = model(**sample["net_input"], features_only=True, classification_head_name=head)
        if task.cfg.regression_target:
            labels = [repr(scale * float(value)) for value in outputs.view(-1)]
        else:
            names = task.label_dictionary
            labels = [names[int(value) + names.nspecial] for value in outputs.argmax(1)]
        yield from zip(sample["id"].tolist(), labels, strict=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("checkpoint", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("splits", nargs="+")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--progress", required=True, metavar="TEXT", help="how a line of progress begins")
    args = parser.parse_args()
    settings = {"data": str(args.data)}
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(args.checkpoint)], arg_overrides=settings)
    model.eval()
    if args.device == "cuda":
        model.cuda()
    finished = 0
    for split in args.splits:
        labels: dict[int, str] = {}
        for index, label in predictions(model, task, split, args.batch, args.scale, args.device):
            labels[index] = label
            if (finished := finished + 1) % args.batch == 0:
                print(f"{args.progress}{finished}", flush=True)
        (args.out / split).write_text("".join(f"{labels[index]}\n" for index in range(len(labels))), encoding="utf-8")


if __name__ == "__main__":
    register()  # the checkpoint may use classes of this package
    main()
