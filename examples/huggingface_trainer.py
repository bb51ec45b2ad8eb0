"""Weighted Freezing and SAGE in transformers.Trainer, which takes the optimizer as it is.

    python examples/huggingface_trainer.py --method sage --out runs/sage

No callback is needed: the Trainer hands over gradients that are averaged, unscaled and clipped, and saves and loads the
optimizer's state with its own. Killed? The same command goes on from the last checkpoint, to the same weights.
"""

import argparse
from pathlib import Path

import torch
from sentences import Sentences, tiny_xlmr
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from weighted_freezing_fairseq import Sage, WeightedFreeze

METHODS = {"weighted_freeze": WeightedFreeze, "sage": Sage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["adamw", *METHODS], default="sage")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    model = tiny_xlmr(args.seed)
    if args.method == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    else:
        optimizer = METHODS[args.method](model, lr=2e-3, seed=args.seed)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(args.out), max_steps=args.steps, save_steps=args.save_steps, logging_steps=100,
            per_device_train_batch_size=32, max_grad_norm=1.0, seed=args.seed, report_to="none", disable_tqdm=True,
        ),
        train_dataset=Sentences(4000, args.seed),
        eval_dataset=Sentences(1000, args.seed + 1),
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
        optimizers=(optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, args.steps)),
    )  # fmt: skip
    last = get_last_checkpoint(str(args.out)) if args.out.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    found = trainer.evaluate()["eval_accuracy"]
    print(f"{args.method}: accuracy {found:.3f} on {len(trainer.eval_dataset)} new sentences")


if __name__ == "__main__":
    main()
