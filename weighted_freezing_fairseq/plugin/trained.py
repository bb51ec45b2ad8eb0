"""A trained model of translation, or of sentences' classes, with binarised data, as measurements of importance need it.

Log-likelihoods of samples with gold targets or with targets drawn from the model itself; and the shape of a model
alone, which needs no data. Left out on purpose: other tasks, and search, which is fairseq-generate's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, models, tasks, utils
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.modules import MultiheadAttention
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationTask
from torch import Tensor, nn

from ..core.fisher import categorical
from ..core.masks import stream_key, uniform
from ..errors import UserError

# One sample as fairseq's data set gives it. Of translation: `source` and `target`, each with its end, and `id`.
Pair = dict[str, Any]


@contextmanager
def attention_by_layers(model: nn.Module) -> Iterator[None]:
    """Attention that calls its four projections as layers, where fairseq would hand their weights to one function.

    The output is the same up to rounding; the projections can then be watched.
    """
    changed = [
        module
        for module in model.modules()
        if isinstance(module, MultiheadAttention) and getattr(module, "skip_embed_dim_check", None) is False
    ]
    for module in changed:
        module.skip_embed_dim_check = True
    try:
        yield
    finally:
        for module in changed:
            module.skip_embed_dim_check = False


class Trained:
    """A model and one split of sentence pairs. `limits` are the longest source and target that the model takes."""

    def __init__(self, model: nn.Module, dataset: Any, device: str, limits: Any) -> None:
        self.model = model.to(device=device, dtype=torch.float32)
        self.dataset, self.device, self.limits = dataset, device, limits

    @classmethod
    def load(cls, checkpoint: Path, data: Path, split: str, device: str) -> "Trained":
        """A checkpoint's model, in float32, and one split of a binarised folder."""
        if not checkpoint.is_file():
            raise UserError(f"there is no checkpoint {checkpoint}; give the path of a fairseq checkpoint")
        if not data.is_dir():
            raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError("torch sees no GPU here; type --device cpu")
        model, task = _load(checkpoint, data)
        limits = utils.resolve_max_positions(task.max_positions(), model.max_positions())
        dataset = _open(task, data, split)
        if isinstance(task, SentencePredictionTask):
            return TrainedOnSentences(model, dataset, device, limits, task.cfg)
        return cls(model, dataset, device, limits)

    def refuse(self, estimator: str) -> None:
        """An estimator of Fisher information that this kind of target does not allow."""
        if estimator == "expected":
            raise UserError(
                "an expectation over all targets needs a few classes, and a translation may be any sequence of words; "
                "type --estimator sampled --draws 10, or per-sample"
            )

    def draw(self, samples: int, seed: int) -> tuple[list[int], int]:
        """The ids of up to `samples` sentences, without replacement, and how many are too long for the model."""
        fitting, too_long = self.dataset.filter_indices_by_size(np.arange(len(self.dataset)), self.limits)
        if len(fitting) < 2:
            raise UserError(f"{len(fitting)} sentences of the split fit the model; give a larger --split")
        order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(seed))[:samples]
        return [int(fitting[place]) for place in order], len(too_long)

    def gold(self, ids: Sequence[int]) -> list[Pair]:
        """Sentences with the targets of the data set."""
        return [self.dataset[number] for number in ids]

    def length(self, pair: Pair) -> int:
        """What a pair costs in a batch: the longer of its sides."""
        return max(len(pair["source"]), len(pair["target"]))

    def log_likelihoods(self, pairs: Sequence[Pair]) -> Tensor:
        """log p(target | source): the plain sum over its tokens and its end, in the order of `pairs`."""
        sample = self._collate(pairs)
        output = self.model(**sample["net_input"])
        log_p = self.model.get_normalized_probs(output, log_probs=True, sample=sample)
        target = sample["target"]
        tokens = log_p.gather(2, target[:, :, None]).squeeze(2)
        sums = (tokens * target.ne(self.dataset.tgt_dict.pad())).sum(1)
        return sums[sample["id"].argsort()]

    def _collate(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """fairseq's own batch, which is in another order: `id` says which pair is where."""
        sample = self.dataset.collater([{**pair, "id": place} for place, pair in enumerate(pairs)])
        return utils.move_to_cuda(sample, self.device) if self.device.startswith("cuda") else sample

    @torch.no_grad()
    def sampled(self, ids: Sequence[int], draw: int, seed: int) -> list[Pair]:
        """Sentences with targets drawn from the model, token by token.

        Token t of sentence `id` is the inverse of the model's cumulative distribution at uniform number t of the stream
        (seed, draw, id): the target does not depend on the batch, up to rounding.
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
        drawn = dict(zip(rows, tokens[:, 1:].cpu(), strict=True))
        targets = [_until_end(drawn[place], caps[rows.index(place)], eos) for place in range(len(pairs))]
        return [{**pair, "target": target} for pair, target in zip(pairs, targets, strict=True)]


class TrainedOnSentences(Trained):
    """The same of fairseq's `sentence_prediction`: a sample is a text, its target a class or, in a regression, numbers.

    A regression has no likelihoods; minus the squared error, which is minus its loss, stands in their place.
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
        """log p(class | text), minus the loss of fairseq's criterion; times the weight of a pair that has one."""
        outputs, target = self._outputs(pairs)
        if self.regression:
            return -(outputs - target.to(outputs.dtype).view_as(outputs)).square().sum(1)
        found = outputs.log_softmax(1).gather(1, target.view(-1, 1)).squeeze(1)
        return found * found.new_tensor([pair.get("weight", 1.0) for pair in pairs])

    def _outputs(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Scores of classes, or numbers, of each text; and the targets."""
        sample = self.dataset.collater(list(pairs))
        sample = utils.move_to_cuda(sample, self.device) if self.device.startswith("cuda") else sample
        return self.model(**sample["net_input"], classification_head_name=self.head)[0], sample["target"]

    @torch.no_grad()
    def sampled(self, ids: Sequence[int], draw: int, seed: int) -> list[Pair]:
        """Texts with classes drawn from the model, of the stream (seed, draw, id)."""
        pairs = self.gold(ids)
        streams = [stream_key(seed, draw, f"target of sentence {number}") for number in ids]
        scores, _ = self._outputs(pairs)
        u = torch.cat([uniform(1, key, device=self.device) for key in streams])
        return [{**pair, "target": c[None]} for pair, c in zip(pairs, categorical(scores, u).cpu(), strict=True)]

    @torch.no_grad()
    def every_class(self, ids: Sequence[int]) -> list[Pair]:
        """Texts with each class c in turn, of weight sqrt(p(c | text)): the squared gradients of a text's weighted
        log-likelihoods add up to their expectation, sum_c p(c | text) (d log p(c | text) / d theta)^2.
        """
        pairs = self.gold(ids)
        weights = self._outputs(pairs)[0].softmax(1).sqrt().tolist()
        return [
            {**pair, "target": torch.tensor([number]), "weight": weight}
            for pair, row in zip(pairs, weights, strict=True)
            for number, weight in enumerate(row)
        ]


def _until_end(tokens: Tensor, cap: int, eos: int) -> Tensor:
    """The tokens before the first end, `cap` at most, and the end."""
    ends = (tokens == eos).nonzero().view(-1)
    stop = min(int(ends[0]) if len(ends) else len(tokens), cap)
    return torch.cat([tokens[:stop], tokens.new_tensor([eos])])


def _load(checkpoint: Path, data: Path) -> tuple[nn.Module, Any]:
    """The model and its task, with the dictionaries of `data`."""
    # Recomputed activations would hide the layers from whoever watches them.
    settings = {"data": str(data), "checkpoint_activations": False, "offload_activations": False}
    try:
        loaded, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], arg_overrides=settings)
    except UserError:
        raise
    except Exception as error:  # fairseq tells of a file that is no checkpoint in a dozen ways
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{checkpoint} could not be loaded with the dictionaries of {data}: {reason or type(error).__name__}; "
            "give a whole fairseq checkpoint and the folder that it was trained on"
        ) from error
    return loaded[0], task


def shape_of(checkpoint: Path, data: Path | None = None) -> nn.Module:
    """A checkpoint's model for the names, shapes and owners of its parameters; its numbers are not to be used.

    It is built on the meta device, where numbers take no memory, with stand-ins for the dictionaries, as large as its
    embeddings are. Only where this fails are the dictionaries of `data` needed.
    """
    try:
        return _with_stand_ins(checkpoint)
    except UserError:
        raise
    except Exception as error:  # an architecture may ask its task for anything
        if data is not None:
            return _load(checkpoint, data)[0]
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the model of {checkpoint} cannot be built without its dictionaries ({reason or type(error).__name__}); "
            "add --data BIN, the folder that it was trained on"
        ) from error


def _with_stand_ins(checkpoint: Path) -> nn.Module:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))
    cfg, task = state["cfg"], tasks.TASK_REGISTRY[state["cfg"].task._name]
    if not issubclass(task, TranslationTask):
        raise TypeError(f"its task is {cfg.task._name}")
    words = [_stand_in(len(state["model"][f"{side}.embed_tokens.weight"])) for side in ("encoder", "decoder")]
    with torch.device("meta"):
        model: nn.Module = models.build_model(cfg.model, task(cfg.task, *words), from_checkpoint=True)
    return model


def _stand_in(size: int) -> Dictionary:
    """A dictionary of `size` words."""
    found = Dictionary()
    for number in range(size - len(found)):
        found.add_symbol(f"word {number}")
    return found


def _open(task: Any, data: Path, split: str) -> Any:
    """One split of `data`."""
    sentences = isinstance(task, SentencePredictionTask)
    try:
        task.load_dataset(split)
    except (FileNotFoundError, AssertionError):  # of sentences, fairseq asserts that there is one
        folder = data / "input0" if sentences else data
        names = sorted({path.name.split(".")[0] for path in folder.glob("*.idx")})
        raise UserError(f"{data} has no split {split!r}; type --split {' or '.join(names) or 'train'}") from None
    dataset = task.dataset(split)
    if sentences and "target" not in dataset[0]:
        raise UserError(f"{split} of {data} has no labels; give a split that has")
    if not sentences and (not isinstance(dataset, LanguagePairDataset) or dataset.tgt is None):
        raise UserError(
            f"{split} of {data} holds no sentence pairs; give the data of translation or sentence_prediction"
        )
    return dataset
