"""What is measured: a model of any size, a batch of random tokens, and a run of each method on them.

A run is that of its YAML, with fairseq's own trainer, criterion and optimizer; only sizes are replaced, and files that
it would read. Left out on purpose: data and its loading, which no method changes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace.configs import open_settings

if TYPE_CHECKING:  # imports torch, for which `--help` does not wait
    from .operations import Operations

_SETTLING_STEPS = 20
MASK_DENSITY = 0.005  # of the random mask that fish_mask is measured with


@dataclass(frozen=True)
class Size:
    """A model and a batch: layers, width, feed-forward width, heads, vocabulary, sentences and their length."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    vocabulary: int
    sentences: int
    length: int

    def overrides(self) -> list[str]:
        """As settings of a run."""
        sides = [
            f"model.{side}.{key}={value}"
            for side in ("encoder", "decoder")
            for key, value in (
                ("layers", self.layers),
                ("embed_dim", self.width),
                ("ffn_embed_dim", self.feed_forward),
                ("attention_heads", self.heads),
            )
        ]
        return [*sides, "common.log_interval=1000000"]


SIZES = {
    "toy": Size(2, 128, 256, 4, 2000, 50, 16),
    "small": Size(3, 256, 1024, 4, 6000, 80, 16),
    "iwslt": Size(6, 512, 1024, 4, 10_000, 56, 16),
    "iwslt4096": Size(6, 512, 1024, 4, 10_000, 256, 16),  # with the batch of the papers' recipe
    "big": Size(6, 1024, 4096, 16, 32_000, 56, 16),
}
PRECISIONS = {
    "fp32": (),
    "bf16": ("common.bf16=true",),
    "fp16": ("common.fp16=true", "common.fp16_no_flatten_grads=true"),
    "amp": ("common.amp=true",),
}


@dataclass
class Subject:
    """A method under measurement."""

    method: str
    trainer: Any

    def update(self, sample: dict[str, Any]) -> None:
        # fairseq's own R-Drop doubles the inputs of the sample that it is given, in place.
        self.trainer.train_step([{**sample, "net_input": dict(sample["net_input"])}])

    def step(self) -> None:
        self.trainer.optimizer.optimizer.step()

    def forget_gradients(self) -> None:
        """Random ones for those of the last update: in a second step with the same ones ewc squares its penalty."""
        for p in self.trainer.optimizer.params:
            if p.grad is not None:
                p.grad.normal_(std=1e-4)

    def settle(self, sample: dict[str, Any]) -> None:
        """Allocate states, compile kernels, and reach the middle of a training.

        A weight that was frozen in every update so far has a second moment of exactly zero, and the square root of
        zero takes torch on a CPU several times as long as any other: true of the first updates of a run only.
        """
        self.update(sample)
        for _ in range(_SETTLING_STEPS):
            self.forget_gradients()
            self.step()
        # A penalty that begins after the warm-up, or grows from nothing, is there now.
        self.trainer.set_num_updates(self.trainer.cfg.optimization.max_update // 2)
        self.update(sample)

    def state_bytes(self) -> int:
        from .operations import in_bytes

        optimizer = self.trainer.optimizer.optimizer
        own = getattr(optimizer, "extra_bytes", 0) + in_bytes(self._held)
        return own + sum(in_bytes(state.values()) for state in optimizer.state.values())

    @property
    def _held(self) -> list[Any]:
        """What the criterion keeps."""
        return list(getattr(self.trainer.criterion, "held", ()))

    def resident_bytes(self) -> int:
        """Weights, their copies in full precision, optimizer state, and what the criterion keeps."""
        from .operations import in_bytes

        weights = {id(p): p for p in (*self.trainer.model.parameters(), *self.trainer.optimizer.params)}
        return in_bytes(weights.values()) + self.state_bytes()

    def count(self, sample: dict[str, Any]) -> tuple["Operations", int]:
        """The operations of an update, and the bytes that its step cannot help moving."""
        from .operations import operations, step_bytes

        found = operations(lambda: self.update(sample))
        return found, step_bytes(self.trainer.optimizer.optimizer, self._held)


def synthetic(size: Size, seed: int) -> tuple[dict[str, Any], Any]:
    """One batch of random tokens with padding at its end, and the translation task that it belongs to."""
    import torch

    from ..plugin.runs import translation_task

    task = translation_task(size.vocabulary)
    words = task.target_dictionary
    generator = torch.Generator().manual_seed(seed)
    shape = (size.sentences, size.length)
    source, target = (torch.randint(words.nspecial, len(words), shape, generator=generator) for _ in range(2))
    lengths = torch.randint(size.length // 2, size.length + 1, (size.sentences,), generator=generator)
    padded = torch.arange(size.length) >= lengths[:, None]
    target[padded] = words.pad()
    previous = torch.cat([torch.full((size.sentences, 1), words.eos()), target[:, :-1]], dim=1)
    sample = {
        "id": torch.arange(size.sentences),
        "nsentences": size.sentences,
        "ntokens": int((~padded).sum()),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((size.sentences,), size.length),
            "prev_output_tokens": previous,
        },
        "target": target,
    }
    return sample, task


def subject_of(
    method: str, config: Path, size: Size, device: str, seed: int, task: Any, more: Sequence[str] = ()
) -> Subject:
    """The run of one YAML at a size, with `more` settings on top of it as `part.key=value`."""
    import torch

    from ..plugin.runs import build_trainer, load_config

    overrides = [
        *size.overrides(),
        "task.data=unused",
        "checkpoint.save_dir=unused",
        "checkpoint.finetune_from_model=unused",
        f"common.cpu={device == 'cpu'}",
        f"common.seed={seed}",
        *more,
    ]
    alone = [override for override in overrides if not override.startswith("distributed_training.")]
    with tempfile.TemporaryDirectory() as folder:
        overrides += _stand_ins(config, alone, task, Path(folder))  # each process its own
        torch.manual_seed(seed)
        subject = Subject(method, build_trainer(load_config(config, overrides), task))
        assert subject.trainer.optimizer  # built, and with it the stand-ins read, while they are there
    return subject


def _stand_ins(config: Path, overrides: Sequence[str], task: Any, folder: Path) -> list[str]:
    """For what a YAML and `overrides` leave open, Fisher information, a mask or a teacher: random numbers.

    No cost depends on them.
    """
    import torch

    from ..core import scope, snapshot
    from ..plugin.runs import build_trainer, load_config

    given = {override.split("=")[0] for override in overrides}
    files = {f"{section}.{key}": folder / f"{key}.pt" for section, key in open_settings(config)}
    files = {name: path for name, path in files.items() if name not in given}
    if not files:
        return []
    cfg = load_config(config, [*overrides, *(f"{name}=unused" for name in files)])
    weights = {entry.name: torch.rand(p.shape) for entry, p in scope.catalogue(task.build_model(cfg.model))}
    for name, path in files.items():
        if name == "optimizer.fish_mask":
            snapshot.save(path, "mask", {name: w < MASK_DENSITY for name, w in weights.items()})
        elif name == "criterion.teacher":
            cfg.criterion.teacher_weight = 0  # to make a teacher takes no teacher
            trainer = build_trainer(cfg, task)
            trainer.consolidate_optimizer()  # fairseq saves nothing without
            trainer.save_checkpoint(str(path), {})
        else:
            snapshot.save(path, "fisher", weights, weights=weights)
    return [f"{name}={path}" for name, path in files.items()]
