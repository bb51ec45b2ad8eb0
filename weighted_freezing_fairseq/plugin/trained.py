"""A trained model of translation or sentence prediction with one split of its data, to measure importance on.

Gives log-likelihoods of samples, with gold targets or targets drawn from the model. `shape_of` builds a model without
data, for the names and shapes of its parameters.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, models, tasks, utils
from fairseq.data import LanguagePairDataset
from fairseq.modules import MultiheadAttention
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationTask
from torch import Tensor, nn

from ..core.fisher import categorical
from ..core.masks import stream_key, uniform
from ..errors import UserError
from .runs import placeholder_dictionary

# A sample of a fairseq data set. In translation: `source` and `target`, both with their end of sentence, and `id`.
Pair = dict[str, Any]


def call_projections_as_layers(model: nn.Module) -> list[MultiheadAttention]:
    """Have attention call its four projections as layers, so that hooks on them run; returns what changed.

    By default fairseq passes their weights to one function. The output is the same up to rounding.
    """
    attentions = [
        module
        for module in model.modules()
        if isinstance(module, MultiheadAttention) and getattr(module, "skip_embed_dim_check", None) is False
    ]
    for module in attentions:
        module.skip_embed_dim_check = True
    return attentions


@contextmanager
def attention_by_layers(model: nn.Module) -> Iterator[None]:
    """Within this context, attention calls its projections as layers."""
    attentions = call_projections_as_layers(model)
    try:
        yield
    finally:
        for module in attentions:
            module.skip_embed_dim_check = False


class Trained:
    """A translation model and one split of its data. `limits`: the longest source and target that the model takes."""

    def __init__(self, model: nn.Module, dataset: Any, device: str, limits: Any) -> None:
        self.model = model.to(device=device, dtype=torch.float32)
        self.dataset, self.device, self.limits = dataset, device, limits

    @classmethod
    def load(cls, checkpoint: Path, data: Path, split: str, device: str) -> "Trained":
        """Load the model of a checkpoint, in float32, and one split of a binarised folder."""
        if not checkpoint.is_file():
            raise UserError(f"there is no checkpoint {checkpoint}; give the path of a fairseq checkpoint")
        if not data.is_dir():
            raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")
        model, task = _load(checkpoint, data)
        limits = utils.resolve_max_positions(task.max_positions(), model.max_positions())
        dataset = _open(task, data, split)
        if isinstance(task, SentencePredictionTask):
            return TrainedOnSentences(model, dataset, device, limits, task.cfg)
        return cls(model, dataset, device, limits)

    def refuse(self, estimator: str) -> None:
        """Raise UserError for an estimator of Fisher information that is not possible with these targets."""
        if estimator == "expected":
            raise UserError(
                "an expectation over all targets needs a few classes, and a translation may be any sequence of words; "
                "type --estimator sampled --draws 10, or per-sample"
            )

    def draw(self, samples: int, seed: int) -> tuple[list[int], int]:
        """Draw the ids of up to `samples` sentences without replacement; also count those too long for the model."""
        fitting, too_long = self.dataset.filter_indices_by_size(np.arange(len(self.dataset)), self.limits)
        if len(fitting) < 2:
            raise UserError(f"{len(fitting)} sentences of the split fit the model; give a larger --split")
        order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(seed))[:samples]
        return [int(fitting[index]) for index in order], len(too_long)

    def gold(self, ids: Sequence[int]) -> list[Pair]:
        """The samples with the targets of the data set."""
        return [self.dataset[index] for index in ids]

    def length(self, pair: Pair) -> int:
        """The length that a pair takes in a batch: of its longer side."""
        return max(len(pair["source"]), len(pair["target"]))

    def log_likelihoods(self, pairs: Sequence[Pair]) -> Tensor:
        """log p(target | source) of each pair, summed over the target's tokens and its end of sentence."""
        sample = self._collate(pairs)
        output = self.model(**sample["net_input"])
        log_p = self.model.get_normalized_probs(output, log_probs=True, sample=sample)
        target = sample["target"]
        tokens = log_p.gather(2, target[:, :, None]).squeeze(2)
        sums = (tokens * target.ne(self.dataset.tgt_dict.pad())).sum(1)
        return sums[sample["id"].argsort()]

    def _collate(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """A batch of fairseq, which sorts the pairs by length: `id` is then the index in `pairs`."""
        sample = self.dataset.collater([{**pair, "id": index} for index, pair in enumerate(pairs)])
        return utils.move_to_cuda(sample, self.device) if self.device.startswith("cuda") else sample

    @torch.no_grad()
    def sampled(self, ids: Sequence[int], draw: int, seed: int) -> list[Pair]:
        """The samples with targets drawn from the model, token by token.

        Token t of sentence `id` is the inverse of the model's cumulative distribution at uniform number t of the stream
        (seed, draw, id), so that the target does not depend on the batch, up to rounding.
        """
        # DEVIATION: Sung et al. eq. 3 takes the expectation over all targets of the model. Padding and beginning of
        # sentence are never drawn here, and a target without an end after twice the source's tokens + 10, or at the
        # model's limit, is cut and ended.
        pairs = self.gold(ids)
        sample = self._collate(pairs)
        rows = sample["id"].tolist()
        pad, eos, bos = (getattr(self.dataset.tgt_dict, name)() for name in ("pad", "eos", "bos"))
        caps = [min(2 * len(pairs[row]["source"]) + 10, self.model.max_decoder_positions()) - 1 for row in rows]
        streams = [stream_key(seed, draw, f"target of sentence {ids[row]}") for row in rows]
        u = torch.stack([uniform(max(caps), key, device=self.device) for key in streams])
        encoded = self.model.encoder(
            src_tokens=sample["net_input"]["src_tokens"], src_lengths=sample["net_input"]["src_lengths"]
        )
        state: dict[str, Any] = {}
        tokens = torch.full((len(rows), 1), eos, device=self.device)
        for step in range(max(caps)):
            output = self.model.decoder(tokens, encoder_out=encoded, incremental_state=state)
            scores = self.model.get_normalized_probs((output[0][:, -1:], None), log_probs=True)[:, 0]
            scores[:, [pad, bos]] = -torch.inf
            tokens = torch.cat([tokens, categorical(scores, u[:, step])[:, None]], dim=1)
            if bool((tokens[:, 1:] == eos).any(1).all()):
                break
        targets = {
            row: _until_end(drawn, cap, eos) for row, drawn, cap in zip(rows, tokens[:, 1:].cpu(), caps, strict=True)
        }
        return [{**pair, "target": targets[row]} for row, pair in enumerate(pairs)]


class TrainedOnSentences(Trained):
    """A model of fairseq's `sentence_prediction`: a sample is a text, its target a class or, in a regression, numbers.

    A regression has no likelihood; the negative squared error, which is the negative loss, replaces it.
    """

    def __init__(self, model: nn.Module, dataset: Any, device: str, limits: Any, task: Any) -> None:
        super().__init__(model, dataset, device, limits)
        self.head, self.regression = task.classification_head_name, task.regression_target

    def refuse(self, estimator: str) -> None:
        if self.regression and estimator in ("expected", "sampled"):
            raise UserError("a regression has no distribution of targets; type --estimator per-sample")

    def length(self, pair: Pair) -> int:
        return len(pair["net_input.src_tokens"])

    def log_likelihoods(self, pairs: Sequence[Pair]) -> Tensor:
        """log p(class | text) of each pair, fairseq's negative loss, times the weight of a pair that has one."""
        outputs, target = self._outputs(pairs)
        if self.regression:
            return -(outputs - target.to(outputs.dtype).view_as(outputs)).square().sum(1)
        log_p = outputs.log_softmax(1).gather(1, target.view(-1, 1)).squeeze(1)
        return log_p * log_p.new_tensor([pair.get("weight", 1.0) for pair in pairs])

    def _outputs(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """The scores of all classes, or the predicted numbers, for each text; and the targets."""
        sample = self._collate(pairs)
        return self.model(**sample["net_input"], classification_head_name=self.head)[0], sample["target"]

    @torch.no_grad()
    def sampled(self, ids: Sequence[int], draw: int, seed: int) -> list[Pair]:
        """The samples with classes drawn from the model, by a uniform number of the stream (seed, draw, id)."""
        pairs = self.gold(ids)
        streams = [stream_key(seed, draw, f"target of sentence {index}") for index in ids]
        scores, _ = self._outputs(pairs)
        u = torch.cat([uniform(1, key, device=self.device) for key in streams])
        return [{**pair, "target": c[None]} for pair, c in zip(pairs, categorical(scores, u).cpu(), strict=True)]

    @torch.no_grad()
    def every_class(self, ids: Sequence[int]) -> list[Pair]:
        """Every sample once with each class c as target, and the weight sqrt(p(c | text)).

        The squared gradients of the weighted log-likelihoods of a text add up to their expectation,
        sum_c p(c | text) (d log p(c | text) / d theta)^2.
        """
        pairs = self.gold(ids)
        weights = self._outputs(pairs)[0].softmax(1).sqrt().tolist()
        return [
            {**pair, "target": torch.tensor([c]), "weight": weight}
            for pair, weights_of_classes in zip(pairs, weights, strict=True)
            for c, weight in enumerate(weights_of_classes)
        ]


def _until_end(tokens: Tensor, cap: int, eos: int) -> Tensor:
    """The tokens before the first end of sentence, `cap` at most, and the end of sentence."""
    ends = (tokens == eos).nonzero().view(-1)
    stop = min(int(ends[0]) if len(ends) else len(tokens), cap)
    return torch.cat([tokens[:stop], tokens.new_tensor([eos])])


def _load(checkpoint: Path, data: Path) -> tuple[nn.Module, Any]:
    """Load the model and its task, with the dictionaries of `data`."""
    # With activation checkpointing, hooks on layers would run again in the backward pass.
    settings = {"data": str(data), "checkpoint_activations": False, "offload_activations": False}
    try:
        [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=settings)
    except UserError:
        raise
    except Exception as error:  # for an invalid checkpoint fairseq raises many types of exceptions
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{checkpoint} could not be loaded with the dictionaries of {data}: {reason or type(error).__name__}; "
            "give an intact fairseq checkpoint and the folder that it was trained on"
        ) from error
    return model, task


def shape_of(checkpoint: Path, data: Path | None = None) -> nn.Module:
    """Build the model of a checkpoint for the names, shapes and owners of its parameters, without their values.

    It is built on the meta device, with placeholder dictionaries of the sizes of its embeddings. If an architecture
    does not allow that, the model is loaded with the dictionaries of `data`.
    """
    try:
        return _with_placeholder_dictionaries(checkpoint)
    except UserError:
        raise
    except Exception as error:  # an architecture may use anything of its task
        if data is not None:
            return _load(checkpoint, data)[0]
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the model of {checkpoint} cannot be built without its dictionaries ({reason or type(error).__name__}); "
            "add --data BIN, the folder that it was trained on"
        ) from error


def _with_placeholder_dictionaries(checkpoint: Path) -> nn.Module:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    cfg, task = state["cfg"], tasks.TASK_REGISTRY[state["cfg"].task._name]
    if not issubclass(task, TranslationTask):
        raise TypeError(f"its task is {cfg.task._name}")
    sizes = [len(state["model"][f"{side}.embed_tokens.weight"]) for side in ("encoder", "decoder")]
    dictionaries = [placeholder_dictionary(size) for size in sizes]
    with torch.device("meta"):
        model: nn.Module = models.build_model(cfg.model, task(cfg.task, *dictionaries), from_checkpoint=True)
    return model


def _open(task: Any, data: Path, split: str) -> Any:
    """Load one split of `data`, which must have targets."""
    sentences = isinstance(task, SentencePredictionTask)
    try:
        task.load_dataset(split)
    except (FileNotFoundError, AssertionError):  # fairseq asserts that a split of sentences exists
        folder = data / "input0" if sentences else data
        names = sorted({path.name.split(".")[0] for path in folder.glob("*.idx")})
        raise UserError(f"{data} has no split {split!r}; type --split {' or '.join(names) or 'train'}") from None
    dataset = task.dataset(split)
    if sentences and "target" not in dataset[0]:
        raise UserError(f"{split} of {data} has no labels; give a split with labels")
    if not sentences and (not isinstance(dataset, LanguagePairDataset) or dataset.tgt is None):
        raise UserError(
            f"{split} of {data} holds no sentence pairs; give the data of translation or sentence_prediction"
        )
    return dataset
