"""What K passes cost: the modes of `intra_distillation` beside standard training and fairseq's own R-Drop.

All run by turns in one process on the same batch, as in `wff bench`, whose table this prints. The transient memory is
what an update needs beyond weights and optimizer state.
"""

import argparse
import logging
import os
from pathlib import Path

from weighted_freezing_fairseq.analysis import bench
from weighted_freezing_fairseq.configs import CONFIGS, config_path

INTRA = "criterion._name=intra_distillation criterion.alpha_schedule=constant"
VARIANTS = {
    "standard": "",
    "concat, K = 3": f"{INTRA} criterion.pass_mode=concat",
    "loop, K = 3": f"{INTRA} criterion.pass_mode=loop",
    "recompute, K = 3": f"{INTRA} criterion.pass_mode=recompute",
    "R-Drop: concat, K = 2": f"{INTRA} criterion.num_passes=2",
    "fairseq's R-Drop": "criterion._name=label_smoothed_cross_entropy_with_rdrop criterion.rdrop_alpha=5",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=bench.SIZES, help="repeat for several (default: small)")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="folder for bench.csv and bench.md")
    args = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import fairseq  # noqa: F401  (registers the plugin's adapters)
    from fairseq.criterions import CRITERION_REGISTRY

    logging.disable(logging.INFO)
    chosen = {
        name: words.split()
        for name, words in VARIANTS.items()
        if "rdrop" not in words or "label_smoothed_cross_entropy_with_rdrop" in CRITERION_REGISTRY
    }
    config = config_path("standard", CONFIGS / "toy")
    rows = []
    for name in args.size or ["small"]:
        size = bench.SIZES[name]
        sample, task = bench.synthetic(size, seed=1)
        subjects = [bench.subject_of(v, config, size, args.device, 1, task, words) for v, words in chosen.items()]
        rows += bench.measure(subjects, name, sample, args.rounds, args.device)
    print(bench.as_markdown(rows))
    if args.out:
        bench.write(rows, args.out)


if __name__ == "__main__":
    main()
