"""Compare the speed of batched per-sample gradients with a loop over single sentences.

Both run in turns in one process on the same sentences. The ordinary gradient of each batch is timed as a lower bound.
The script prints medians with quartiles, and the largest difference between both sums of squared gradients, relative to
the largest entry of the parameter. Differences of some thousandths are expected: if the input of a ReLU unit is 0 up to
rounding, the unit may be active in only one of the two computations.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fairseq.data import LanguagePairDataset

from weighted_freezing_fairseq.core import fisher
from weighted_freezing_fairseq.costs.subjects import SIZES, synthetic
from weighted_freezing_fairseq.plugin.runs import load_config
from weighted_freezing_fairseq.plugin.trained import Trained, attention_by_layers
from weighted_freezing_fairseq.workspace.configs import CONFIGS, config_path


def random_model(name: str, sentences: int, device: str) -> Trained:
    """An untrained Transformer of a size of `wff bench`, and random sentence pairs of up to its length."""
    size = SIZES[name]
    _, task = synthetic(size, seed=1)
    torch.manual_seed(1)
    config = load_config(config_path("standard", CONFIGS / "toy"), [*size.overrides(), "task.data=unused"])
    dictionary = task.source_dictionary

    def side() -> list[torch.Tensor]:
        lengths = torch.randint(size.length // 2, size.length, (sentences,)).tolist()
        tokens = [torch.randint(dictionary.nspecial, len(dictionary), (n,)) for n in lengths]
        return [torch.cat([t, t.new_tensor([dictionary.eos()])]) for t in tokens]

    source, target = side(), side()
    dataset = LanguagePairDataset(
        source, [len(s) for s in source], dictionary, target, [len(t) for t in target], dictionary, shuffle=False
    )
    return Trained(task.build_model(config.model), dataset, device, (1024, 1024))


def timed(work: Callable[[], None], device: str) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="fairseq checkpoint; without one, a random model")
    parser.add_argument("--data", type=Path, help="its binarised folder")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random model (default small)")
    parser.add_argument("--samples", type=int, default=200, help="sentences (default 200)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="(default 4000)")
    parser.add_argument("--rounds", type=int, default=7, help="(default 7)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    if args.checkpoint:
        trained = Trained.load(args.checkpoint, args.data, "train", args.device)
    else:
        trained = random_model(args.size, args.samples, args.device)
    pairs = trained.gold(trained.draw(args.samples, seed=1)[0])
    parameters = fisher.trainable(trained.model)
    ratios, seconds = [], []
    with fisher.without_dropout(trained.model), attention_by_layers(trained.model):
        by_length = sorted(pairs, key=trained.length)
        probe = [by_length[len(pairs) * quarter // 4] for quarter in (1, 2, 3)]
        squares = fisher.SquaredGradients(trained.model, trained.log_likelihoods, probe)
        batches = fisher.batches(pairs, trained.length, args.max_tokens)

        def batched() -> None:
            for batch in batches:
                squares.add_(fast, batch)

        def single() -> None:
            fisher.add_one_by_one_(slow, parameters, trained.log_likelihoods, pairs)

        def plain() -> None:
            unused = fisher.zeros(parameters)
            for batch in batches:
                fisher.add_squared_sum_(unused, parameters, trained.log_likelihoods, batch)

        for index in range(args.rounds + 1):
            fast, slow = fisher.zeros(parameters), fisher.zeros(parameters)
            durations = timed(batched, args.device), timed(single, args.device), timed(plain, args.device)
            if index:  # the first round warms up
                ratios.append(durations[1] / durations[0])
                seconds.append(durations)
    # Gradients that are 0 up to rounding, such as that of an attention key's bias, are not compared.
    floor = 1e-6 * max(float(total.max()) for total in slow.values())
    difference = max(float((fast[name] - slow[name]).abs().max() / max(slow[name].max(), floor)) for name in slow)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    fast_time, slow_time, plain_time = (statistics.median(times) for times in zip(*seconds, strict=True))
    count = sum(p.numel() for p in parameters.values())
    threads = torch.get_num_threads()
    print(f"{count / 1e6:.1f} M parameters, {len(pairs)} sentences in {len(batches)} batches, {threads} threads")
    print(f"batched {1000 * fast_time / len(pairs):.2f} ms a sentence, single {1000 * slow_time / len(pairs):.2f} ms")
    print(f"the gradients of whole batches alone, not of sentences: {1000 * plain_time / len(pairs):.2f} ms a sentence")
    print(f"{middle:.2f} times as fast [{low:.2f}, {high:.2f}]; largest relative difference {difference:.1e}")
    print(f"measured one sentence at a time: {', '.join(squares.looped) or 'nothing'}")


if __name__ == "__main__":
    main()
