"""What `wff bench` measures: a run of each method on a model of any size and a batch of random tokens.

A run has the settings of the method's YAML and fairseq's own trainer, criterion and optimizer. Only sizes and input
files are replaced. Loading data is not measured, because no method changes it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace.configs import open_settings, settings_of

if TYPE_CHECKING:  # imports torch, which is slow and not needed for `--help`
    from .operations import Operations

_WARM_UP_STEPS = 20
MASK_DENSITY = 0.005  # of the random mask for fish_mask


@dataclass(frozen=True)
class Size:
    """The sizes of a Transformer, and a batch of `sentences` sentences of `length` tokens."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    vocabulary: int
    sentences: int
    length: int

    def overrides(self) -> list[str]:
        """The settings of a run with this model."""
        settings = {
            "layers": self.layers, "embed_dim": self.width, "ffn_embed_dim": self.feed_forward,
            "attention_heads": self.heads,
        }  # fmt: skip
        sides = [f"model.{side}.{key}={value}" for side in ("encoder", "decoder") for key, value in settings.items()]
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
    """A method under measurement, with the fairseq trainer of its run."""

    method: str
    trainer: Any

    def update(self, sample: dict[str, Any]) -> None:
        # fairseq's R-Drop doubles the inputs of a sample in place.
        self.trainer.train_step([{**sample, "net_input": dict(sample["net_input"])}])

    def step(self) -> None:
        self.trainer.optimizer.optimizer.step()

    def randomise_gradients(self) -> None:
        """Replace all gradients by random numbers; several steps with the same gradients would square ewc's penalty."""
        for p in self.trainer.optimizer.params:
            if p.grad is not None:
                p.grad.normal_(std=1e-4)

    def warm_up(self, sample: dict[str, Any]) -> None:
        """Allocate states, compile kernels, and set the number of updates to the middle of training.

        A weight that was frozen in all updates so far has a second moment of zero. torch's square root of zero is
        several times slower on a CPU than that of other numbers; after a few steps, no weight has this state.
        """
        self.update(sample)
        for _ in range(_WARM_UP_STEPS):
            self.randomise_gradients()
            self.step()
        # Penalties that begin after the warm-up of the learning rate, or grow from zero, are active there.
        self.trainer.set_num_updates(self.trainer.cfg.optimization.max_update // 2)
        self.update(sample)

    def state_bytes(self) -> int:
        """The size of the optimizer state and of the criterion's tensors."""
        from .operations import in_bytes

        optimizer = self.trainer.optimizer.optimizer
        extra = getattr(optimizer, "extra_bytes", 0) + in_bytes(self._criterion_tensors)
        return extra + sum(in_bytes(state.values()) for state in optimizer.state.values())

    @property
    def _criterion_tensors(self) -> list[Any]:
        from ..plugin.guided_criterion import GuidedCriterion

        criterion = self.trainer.get_criterion()
        return criterion.kept_tensors if isinstance(criterion, GuidedCriterion) else []

    def resident_bytes(self) -> int:
        """The size of weights, of their copies in full precision, and of the state."""
        from .operations import in_bytes

        weights = {id(p): p for p in (*self.trainer.model.parameters(), *self.trainer.optimizer.params)}
        return in_bytes(weights.values()) + self.state_bytes()

    def count_operations(self, sample: dict[str, Any]) -> "Operations":
        """The operations of an update."""
        from .operations import operations

        return operations(lambda: self.update(sample))

    def step_bytes(self) -> int:
        """The bytes that a step of the optimizer has to move at least."""
        from .operations import step_bytes

        return step_bytes(self.trainer.optimizer.optimizer, self._criterion_tensors)


def synthetic(size: Size, seed: int) -> tuple[dict[str, Any], Any]:
    """A batch of random tokens with padded targets, and a translation task for it."""
    import torch

    from ..plugin.runs import translation_task

    task = translation_task(size.vocabulary)
    dictionary = task.target_dictionary
    generator = torch.Generator().manual_seed(seed)
    shape = (size.sentences, size.length)
    source, target = (torch.randint(dictionary.nspecial, len(dictionary), shape, generator=generator) for _ in range(2))
    lengths = torch.randint(size.length // 2, size.length + 1, (size.sentences,), generator=generator)
    padded = torch.arange(size.length) >= lengths[:, None]
    target[padded] = dictionary.pad()
    previous = torch.cat([torch.full((size.sentences, 1), dictionary.eos()), target[:, :-1]], dim=1)
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
    method: str, config: Path, size: Size, device: str, seed: int, task: Any, overrides: Sequence[str] = ()
) -> Subject:
    """The run of a YAML at a size, with other `overrides` of its settings as SECTION.KEY=VALUE."""
    import torch

    from ..plugin.runs import build_trainer, load_config

    acts_later = "importance_start" in (settings_of(config).get("optimizer") or {})
    overrides = [
        *size.overrides(),
        "task.data=unused",
        "checkpoint.save_dir=unused",
        "checkpoint.finetune_from_model=unused",
        f"common.cpu={device == 'cpu'}",
        f"common.seed={seed}",
        "common.log_importance=0",  # it would write into save_dir
        *(["optimizer.importance_start=1"] if acts_later else []),  # measured while the method acts
        *overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        overrides += _random_inputs(config, overrides, task, Path(folder))
        torch.manual_seed(seed)
        subject = Subject(method, build_trainer(load_config(config, overrides), task))
        assert subject.trainer.optimizer  # built now, since it reads the files in `folder`
    return subject


def _random_inputs(config: Path, overrides: Sequence[str], task: Any, folder: Path) -> list[str]:
    """Settings for the input files that a YAML and `overrides` leave open, as files of random numbers in `folder`.

    The files are Fisher information, a mask or a teacher. No cost depends on their values.
    """
    import torch

    from ..core import scope, snapshot
    from ..plugin.runs import build_trainer, load_config

    # each process makes its own files, alone
    overrides = [override for override in overrides if not override.startswith("distributed_training.")]
    already_set = {override.split("=")[0] for override in overrides}
    files = {f"{section}.{key}": folder / f"{key}.pt" for section, key in open_settings(config)}
    files = {name: path for name, path in files.items() if name not in already_set}
    if not files:
        return []
    cfg = load_config(config, [*overrides, *(f"{name}=unused" for name in files)])
    weights = {entry.name: torch.rand(p.shape) for entry, p in scope.catalogue(task.build_model(cfg.model))}
    for name, path in files.items():
        if name == "optimizer.fish_mask":
            snapshot.save(path, "mask", {name: w < MASK_DENSITY for name, w in weights.items()})
        elif name == "criterion.teacher":
            cfg.criterion.teacher_weight = 0  # the trainer that saves the teacher has no teacher
            trainer = build_trainer(cfg, task)
            trainer.consolidate_optimizer()  # required by save_checkpoint
            trainer.save_checkpoint(str(path), {})
        else:
            snapshot.save(path, "fisher", weights, weights=weights)
    return [f"{name}={path}" for name, path in files.items()]
