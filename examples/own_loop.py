"""Weighted Freezing and SAGE in a training loop of one's own, on a Hugging Face model.

    python examples/own_loop.py --method weighted_freeze

Two lines are from this package: the import and the optimizer. A checkpoint holds what it holds for AdamW, and one key
more in the state of the optimizer.
"""

import argparse

import torch
from sentences import Sentences, tiny_xlmr

from weighted_freezing_fairseq import Sage, WeightedFreeze

METHODS = {"weighted_freeze": WeightedFreeze, "sage": Sage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["adamw", *METHODS], default="weighted_freeze")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    model = tiny_xlmr(args.seed)
    if args.method == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    else:
        optimizer = METHODS[args.method](model, lr=2e-3, seed=args.seed)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, args.steps)

    batches = torch.utils.data.DataLoader(Sentences(4000, args.seed), batch_size=32, shuffle=True)
    step = 0
    model.train()
    while step < args.steps:
        for batch in batches:
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before the step: importance is measured there
            optimizer.step()
            schedule.step()
            step += 1
            if step % 100 == 0:
                print(f"step {step}: loss {loss.item():.3f}", flush=True)
            if step == args.steps:
                break

    model.eval()
    held_out = Sentences(1000, args.seed + 1)
    with torch.no_grad():
        right = model(held_out.words).logits.argmax(-1) == held_out.labels
    print(f"{args.method}: accuracy {right.float().mean():.3f} on {len(held_out)} new sentences")


if __name__ == "__main__":
    main()
