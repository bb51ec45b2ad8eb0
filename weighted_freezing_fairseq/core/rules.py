"""The table: every method of this package as one update (Li et al. 2023, section 3.4 and Table 3).

    theta  <-  f(I) * theta  +  g(I) * eta * grad  +  h(I)

A row names its importance metric I, its f, g, h, the *stage* at which training really applies it, and its source.
The rows are exact for plain SGD; around Adam a row at stage `loss` goes through the moments and one at `gradient` does
not reach the weight decay, which is why the stage is part of the table. Left out on purpose: how a row is applied
(`optimizers.py` lists the classes) and how its scores are measured. The module imports without torch, so that `wff
rules` prints at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from .divergences import js_divergence, teacher_divergence, x_divergence

if TYPE_CHECKING:
    from torch import Tensor

Scope = Literal["linear", "all"]  # `Entry.within` of `scope.py`
SCOPES: tuple[Scope, ...] = get_args(Scope)
Purpose = Literal["generalise", "adapt cheaply", "do not forget", "compress"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


class Given:
    """What a term reads beside I, by the names that its row lists in `needs`.

    lo, hi, mean: smallest, largest and mean score of the tensor (or of the model). rate: share of the tensor's weights
    that is updated. u: uniform random numbers in (0, 1]. average: moving average of I, bias-corrected. grad: the
    gradient. step: what the base did to theta; momentum: the base's average of gradients after that step. A row that
    reads one of these acts after the base's step. alignment: moving average, one number a tensor, of `alignment` of
    momentum and gradient. fraction: share of the numbers of a tensor that is updated, or of the tensors. A row that
    reads step, momentum or fraction acts on whole tensors. gamma: how much a number mattered on an old task, in [0, 1),
    measured once. coin: one uniform random number in (0, 1] for a tensor. drawn: 1 if the layer of the tensor is drawn,
    or if it is in no layer, else 0. eps, max_scale: constants of a factor. mask: 1 = is updated. tau: threshold on I.
    theta: the weight before the base's step. eta: learning rate. lam: strength of the row's loss term R, or of its
    weight decay. slope: dR / dtheta. anchor: theta_A, the weights to stay near.
    """

    def __init__(self, **quantities: Tensor | float) -> None:
        vars(self).update(quantities)

    if TYPE_CHECKING:  # a factor treats numbers and tensors alike

        def __getattr__(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Term:
    """One of f, g, h: as a reader writes it, and as a function of I."""

    text: str
    value: Callable[[Tensor, Given], Tensor]


@dataclass(frozen=True)
class LossTerm:
    """R, which a criterion row adds to the loss, times its strength lambda: as a reader writes it, and as a function.

    The function takes what the text names: log-probabilities of the K passes (K, ..., V), a teacher's probabilities q,
    or theta, I and theta_A.
    """

    text: str
    value: Callable[..., Tensor]


@dataclass(frozen=True)
class Rule:
    """One row of the table: a method as `theta <- f(I) * theta + g(I) * eta * grad + h(I)`.

    Attributes:
        name: its name in the table, in flags and in YAMLs.
        purpose: what its authors made it for: a better model of the data that it is trained on, tuning a trained model
            with few numbers or little memory, keeping what a trained model knows, or a smaller model. The table has
            the rows of a purpose together.
        kind: whether it changes the update or the loss.
        metric: the importance I: a key of `METRICS`, `momentum`, which is |momentum| of the base optimizer, or
            `implicit` where the loss does the work.
        f: factor of the weight. Like g and h it has a `text` for readers and a `value`, a function of I.
        g: factor of the step.
        h: what is added.
        stage: where training applies the row. The terms are exact for plain SGD; around Adam a row at stage `loss`
            goes through the moments, and one at `gradient` does not reach the weight decay.
        needs: what the terms read beside I.
        extra_passes: forward passes that an update costs beside the usual one.
        extra_state: memory that the method keeps.
        source: the paper and the equation.
        loss: what a criterion row adds to the loss.
        variant: name of this form of the row, if there are several.
        scope: the weights that it acts on unless told otherwise.
        example: one step worked out by hand, which the tests compare with the row.

    Examples:
        >>> from weighted_freezing_fairseq import RULES
        >>> RULES["ewc"].f.text, RULES["ewc"].h.text, RULES["ewc"].stage
        ('1 - eta lambda I', 'eta lambda I theta_A', 'loss')
    """

    name: str
    purpose: Purpose
    kind: Literal["optimizer", "criterion"]
    metric: str
    f: Term
    g: Term
    h: Term
    stage: Literal["loss", "gradient", "update", "parameter", "loss and parameter"]
    needs: tuple[str, ...]
    extra_passes: str
    extra_state: str
    source: str
    loss: LossTerm | None = None
    variant: str = ""
    scope: Scope = "linear"
    example: Example | None = None

    @property
    def scales(self) -> bool:
        """Whether its factors are other numbers than those of a mask."""
        return not {"max_scale", "coin", "gamma", "lam"}.isdisjoint(self.needs)

    @property
    def label(self) -> str:
        """Name and variant."""
        return f"{self.name} ({self.variant})" if self.variant else self.name


@dataclass(frozen=True)
class Example:
    """One step of SGD with rate 0.1 from theta with grad, by hand: `after`. constants: settings of the row or SGD."""

    theta: tuple[float, ...]
    grad: tuple[float, ...]
    after: tuple[float, ...]
    constants: tuple[tuple[str, float], ...] = ()


def sgd_update(rule: Rule, theta: Tensor, grad: Tensor, importance: Tensor, given: Given) -> Tensor:
    """The table read aloud: theta' = f(I) * theta + g(I) * eta * grad + h(I), for plain SGD with rate `given.eta`."""
    f, g, h = (term.value(importance, given) for term in (rule.f, rule.g, rule.h))
    return f * theta + g * given.eta * grad + h


def _constant(text: str, number: float) -> Term:
    return Term(text, lambda importance, given: importance.new_full(importance.shape, number))


ONE, MINUS_ONE, ZERO = _constant("1", 1.0), _constant("-1", -1.0), _constant("0", 0.0)


# DEVIATION: Li et al. contradict themselves. Algorithm 1, read to the letter, and the first author's public code keep a
# weight with probability (I - min) / (max - min), which trains important weights and freezes unimportant ones; eq. 7
# prints another sign; the text and argument of section 3.3 freeze important weights more often. The default follows the
# text (`important`); Algorithm 1 is `printed`, and the code's option smooth-scores is `smooth`.


def freeze_important(importance: Tensor, given: Given) -> Tensor:
    from .masks import keep_mask

    return -keep_mask(importance, given.lo, given.hi, given.u).to(importance.dtype)


# Without a division, and so without a special case for max = min, which keeps every weight.


def freeze_printed(importance: Tensor, given: Given) -> Tensor:
    return -(given.u * (given.hi - given.lo) <= importance - given.lo).to(importance.dtype)


def freeze_smooth(importance: Tensor, given: Given) -> Tensor:
    return -(given.u * given.u * (2 * (given.hi - given.lo)) <= importance - given.lo).to(importance.dtype)


def freeze_random(importance: Tensor, given: Given) -> Tensor:
    return -(given.u <= given.rate).to(importance.dtype)


# DEVIATION: Liang et al. and their code have no bound on the factor, and their code adds eps below the line only. With
# the average below the line (`full`, their form) beta / (1 - beta) bounds the factor by itself; with I below the line
# (Li et al. eq. 2, `li`) nothing does where a gradient happens to be near zero, so max_scale bounds every variant. eps
# stands above and below, as both papers print it, so that a weight that never mattered keeps 1.


def sage_full(importance: Tensor, given: Given) -> Tensor:
    factor = ((importance - given.average).abs() + given.eps) / (given.average + given.eps)
    return -factor.clamp_max(given.max_scale)


def sage_li(importance: Tensor, given: Given) -> Tensor:
    # DEVIATION: Li et al. eq. 2 prints I, and not its average, below the line; the code of Liang et al. does not.
    factor = ((importance - given.average).abs() + given.eps) / (importance + given.eps)
    return -factor.clamp_max(given.max_scale)


def sage_light(importance: Tensor, given: Given) -> Tensor:
    # DEVIATION: Li et al. section 4.2 say only that SAGE* has no moving average. Without one eq. 2 is eq. 4, C / I,
    # and its constant C is the mean of I over the tensor here: an unimportant weight is sped up, an important one
    # slowed down, and the scale of the loss cancels.
    return -((given.mean + given.eps) / (importance + given.eps)).clamp_max(given.max_scale)


def _minus_mask(importance: Tensor, given: Given) -> Tensor:
    return -given.mask.to(importance.dtype)


def _mask(importance: Tensor, given: Given) -> Tensor:
    return -_minus_mask(importance, given)


def _below_threshold(importance: Tensor, given: Given) -> Tensor:
    # DEVIATION: the code of Gu et al. fixes the 75 % of the weights with the largest Fisher information and also bounds
    # how far the others may go from their start; here, as in Li et al. section 2.2, the others are free.
    return -(importance <= given.tau).to(importance.dtype)


def _ewc_decay(importance: Tensor, given: Given) -> Tensor:
    return 1 - given.eta * given.lam * importance


def _ewc_pull(importance: Tensor, given: Given) -> Tensor:
    # DEVIATION: Li et al. eq. 5 drops the Fisher factor that their loss and eq. 6 have; eq. 6 is the derivative.
    return given.eta * given.lam * importance * given.anchor


# DEVIATION: Algorithm 1 of Liang K. et al. divides by the share of numbers kept with 1 added to their count, their code
# by that share, at least 0.001; here it is that share plus eps. They decay weights outside the mask; here decay is part
# of the base's step. The step is that of the base with its learning rate, whose sign is the opposite of u's.
def cautious(importance: Tensor, given: Given) -> Tensor:
    agrees = (given.step * given.grad < 0).to(importance.dtype)
    return -agrees / (agrees.mean() + given.eps)


# The step is that of the base without decay and with its learning rate, whose sign is the opposite of u's: where it is
# 0, u theta >= 0 and the weight decays.
# DEVIATION: the code of Chen L. et al. was not found. Their update u is known before it is applied; here it is what the
# base's step changed, so that a step too small for the precision of the weight counts as 0.
def cautious_decay(importance: Tensor, given: Given) -> Tensor:
    agrees = (given.step * given.theta <= 0).to(importance.dtype)
    return 1 - given.eta * given.lam * agrees


# DEVIATION: the code of Chen Y. et al. moves every number whose momentum equals the k-th largest, rounds k down, fails
# where it is 0, and decays all weights. Here exactly k = round(fraction * n) numbers move, at least one, and the others
# keep their value: decay is part of the base's step. The code leaves biases and norms out of the choice and moves all
# of them; as in Algorithm 1 of the paper the choice is made in every tensor in scope.
def largest_share(importance: Tensor, given: Given) -> Tensor:
    from .masks import largest_in_tensor

    return -largest_in_tensor(importance, float(given.fraction)).to(importance.dtype)


# DEVIATION: the paper of Joo et al. was read in summaries and public implementations, which do not agree on the start
# of the average s (0 or 1; here its first value) and on the momentum in it (before or after this update's gradient;
# here that of the base after its step). A base that keeps no momentum, such as the paper's RMSProp, is refused.
ALIGNMENT_BETA = 0.9


def alignment(momentum: Tensor, grad: Tensor) -> Tensor:
    """sigmoid(cos(m, grad) / 2) of a tensor."""
    from torch.nn.functional import cosine_similarity

    return (cosine_similarity(momentum.flatten(), grad.flatten(), dim=0, eps=1e-30) / 2).sigmoid()


def magma(importance: Tensor, given: Given) -> Tensor:
    return -((given.coin <= given.fraction) * given.alignment).to(importance.dtype).expand_as(importance)


def skip_update(importance: Tensor, given: Given) -> Tensor:
    return -((given.coin <= given.fraction) / given.fraction).to(importance.dtype).expand_as(importance)


# DEVIATION: Konishi et al. have gamma = |tanh(z)|, with z the gradient of the loss over all data of an old task,
# standardised over its layer: samples of opposite sign cancel in it, and its mean is near 0. A file of Fisher
# information I has the mean of squared gradients of samples, so that sqrt(I / mean I) is here what |z| is there. One
# file is one old task: the elementwise maximum over several is left out, and so are their importance of the heads of
# other tasks (CHI) and their scaling of a head's gradient, for a model of one head.
def soft_mask(fisher: Tensor) -> Tensor:
    """gamma = tanh(sqrt(I / mean I)) in float64, with the mean over the tensor; 0 where that is 0."""
    importance = fisher.double()
    if not bool((importance > 0).any()):
        return importance
    return (importance / importance.mean()).sqrt().tanh()


def spg(importance: Tensor, given: Given) -> Tensor:
    return given.gamma - 1


# DEVIATION: the models of Pan et al. have one stack of layers; here those of encoder and decoder are drawn from
# together. They compute no gradient for frozen layers, which saves its memory and time; here it is computed, exchanged,
# clipped with the others, and left out before the base's step.
def lisa(importance: Tensor, given: Given) -> Tensor:
    return -given.drawn


def _descend(importance: Tensor, given: Given) -> Tensor:
    return -given.eta * given.lam * given.slope


def _masked_descend(importance: Tensor, given: Given) -> Tensor:
    return given.mask * _descend(importance, given)


def _quadratic(theta: Tensor, importance: Tensor, anchor: Tensor) -> Tensor:
    return 0.5 * (importance * (theta - anchor).square()).sum()


def _misalignment(theta: Tensor, anchor: Tensor) -> Tensor:
    from torch.nn.functional import cosine_similarity

    return -cosine_similarity(theta, anchor, dim=-1).abs().mean()


X = LossTerm("1/K sum_k (KL(p_k || m) + KL(m || p_k)), m = 1/K sum_k p_k", x_divergence)
JS = LossTerm("1/K sum_k KL(p_k || m), m = 1/K sum_k p_k", js_divergence)

_ROWS = (
    Rule(
        name="weighted_freeze",
        purpose="generalise",
        kind="optimizer",
        metric="magnitude",
        f=ONE,
        g=Term("-b, b ~ Bernoulli((max I - I) / (max I - min I))", freeze_important),
        h=ZERO,
        stage="gradient",
        needs=("lo", "hi", "u"),
        extra_passes="0",
        extra_state="none",
        source="Li et al. 2023, section 3.3",
        variant="important",
    ),
    Rule(
        name="sage",
        purpose="generalise",
        kind="optimizer",
        metric="loss-preserving",
        f=ONE,
        g=Term("-(|I - EMA(I)| + eps) / (EMA(I) + eps)", sage_full),
        h=ZERO,
        stage="update",
        needs=("average", "eps", "max_scale"),
        extra_passes="0",
        extra_state="1 per weight in scope",
        source="Liang et al. 2022, section 3, and their code",
        variant="full",
    ),
    Rule(
        name="cautious",
        purpose="generalise",
        kind="optimizer",
        metric="loss-preserving",  # logged, and not used
        f=ONE,
        g=Term("-m / (mean m + eps), m = 1 where the base's step goes against the gradient, else 0", cautious),
        h=ZERO,
        stage="update",
        needs=("step", "grad", "eps"),
        extra_passes="0",
        extra_state="none",
        source="Liang K. et al. 2024, Algorithm 1",
        # The base's step is -0.1 * grad: it goes against the gradient but where that is 0, so that mean m = 2 / 3, and
        # the factor 1 / (2 / 3 + 2 / 15) = 1.25: 1 - 0.1 * 1.25 * 0.5, -2, 3 + 0.1 * 1.25 * 1.
        example=Example((1.0, -2.0, 3.0), (0.5, 0.0, -1.0), (0.9375, -2.0, 3.125), (("eps", 2 / 15),)),
    ),
    Rule(
        name="cautious_decay",
        purpose="generalise",
        kind="optimizer",
        metric="loss-preserving",  # logged, and not used
        f=Term("1 - eta lambda m, m = 1 where step * theta <= 0 (base's step, no decay), else 0", cautious_decay),
        g=MINUS_ONE,
        h=ZERO,
        stage="update",
        needs=("step", "theta", "eta", "lam"),
        extra_passes="0",
        extra_state="none",
        source="Chen L. et al. 2025, Algorithm 1",
        scope="all",
        # eta lambda = 0.05. The step -0.05 takes 1 towards 0, which decays: 1 - 0.05 * 1 - 0.05. The step -0.1 takes -2
        # away from 0, which does not. With the step 0 a weight decays: 3 - 0.05 * 3.
        example=Example((1.0, -2.0, 3.0), (0.5, 1.0, 0.0), (0.9, -2.1, 2.85), (("weight_decay", 0.5),)),
    ),
    Rule(
        name="magma",
        purpose="generalise",
        kind="optimizer",
        metric="loss-preserving",  # logged, and not used
        f=ONE,
        g=Term("-b s, b ~ Bernoulli(p) for the tensor, s = EMA(sigmoid(cos(m, grad) / 2)), m: momentum", magma),
        h=ZERO,
        stage="update",
        needs=("momentum", "grad", "alignment", "coin", "fraction"),
        extra_passes="0",
        extra_state="1 per tensor",
        source="Joo et al. 2026, Algorithm 1",
        variant="aligned",
        # In the first step the momentum of SGD is the gradient: cos = 1, s = 1 / (1 + exp(-1 / 2)) = 0.6224593312, and
        # with p = 1 the tensor is updated: 1 - 0.1 * s * 0.5, -2 + 0.1 * s * 1.
        example=Example((1.0, -2.0), (0.5, -1.0), (0.96887703344, -1.93775406688), (("fraction", 1.0),)),
    ),
    # DEVIATION: the code of Li H. et al. was not found. Their text masks the gradient that was accumulated over N
    # batches, and has one threshold T_k; it is read here as one a tensor. The moments and the decay of the base go on
    # where the gradient is masked.
    Rule(
        name="gmt",
        purpose="generalise",
        kind="optimizer",
        metric="fisher",  # which has the same largest numbers as |grad|
        f=ONE,
        g=Term("-1 on the largest I of the tensor (a share of its numbers), else 0", largest_share),
        h=ZERO,
        stage="gradient",
        needs=("fraction",),
        extra_passes="0",
        extra_state="none",
        source="Li H. et al. 2024, Gradient-Mask Tuning",
        scope="all",
        # Half of four numbers: the two largest |grad| are 3 and, of the two with 1, the first: 1 - 0.1, 3 + 0.3.
        example=Example((1.0, 2.0, 3.0, 4.0), (1.0, 0.5, -3.0, 1.0), (0.9, 2.0, 3.3, 4.0), (("fraction", 0.5),)),
    ),
    Rule(
        name="intra_distillation",
        purpose="generalise",
        kind="criterion",
        metric="implicit",
        f=ONE,
        g=MINUS_ONE,
        h=Term("-eta lambda dR/dtheta", _descend),
        stage="loss",
        needs=("eta", "lam", "slope"),
        loss=X,
        extra_passes="K - 1",
        extra_state="none (K outputs are alive at once)",
        source="Xu et al. 2022, eq. 8 to 12",
    ),
    Rule(
        name="self_distillation",
        purpose="generalise",
        kind="criterion",
        metric="implicit",
        f=ONE,
        g=MINUS_ONE,
        h=Term("-eta lambda dR/dtheta", _descend),
        stage="loss",
        needs=("eta", "lam", "slope"),
        loss=LossTerm("KL(q || p), q of the teacher", teacher_divergence),
        extra_passes="1, of the teacher without backward",
        extra_state="1 per weight (the teacher)",
        source="Xu et al. 2022, eq. 3",
    ),
    Rule(
        name="fish_mask",
        purpose="adapt cheaply",
        kind="optimizer",
        metric="fisher",
        f=ONE,
        g=Term("-1 on the top k of I, else 0", _minus_mask),
        h=ZERO,
        stage="parameter",
        needs=("mask",),
        extra_passes="0, after the mask is made",
        extra_state="1 bit per weight",
        source="Sung et al. 2021, section 2.2",
        scope="all",
    ),
    Rule(
        name="lisa",
        purpose="adapt cheaply",
        kind="optimizer",
        metric="loss-preserving",  # logged, and not used
        f=ONE,
        g=Term("-m, m = 1 for the tensors of drawn layers and of no layer, else 0", lisa),
        h=ZERO,
        stage="parameter",
        needs=("drawn",),
        extra_passes="0",
        extra_state="none; the base keeps its state for drawn layers only",
        source="Pan et al. 2024, Algorithm 1",
        scope="all",
    ),
    Rule(
        name="mofo",
        purpose="do not forget",
        kind="optimizer",
        metric="momentum",
        f=ONE,
        g=Term("-1 on the largest I of the tensor (a share of its numbers), else 0", largest_share),
        h=ZERO,
        stage="update",
        needs=("momentum", "fraction"),
        extra_passes="0",
        extra_state="none",
        source="Chen Y. et al. 2024, Algorithm 1",
        scope="all",
        # In the first step the momentum of SGD is the gradient. Half of three numbers are round(1.5) = 2: those with
        # |I| = 1 and the first with |I| = 0.5 move by -0.1 * grad, the other with 0.5 does not.
        example=Example((1.0, -2.0, 3.0), (0.5, 0.5, -1.0), (0.95, -2.0, 3.1), (("fraction", 0.5),)),
    ),
    Rule(
        name="spg",
        purpose="do not forget",
        kind="optimizer",
        metric="fisher",  # in gamma that of the old task; what is logged is that of the update
        f=ONE,
        g=Term("-(1 - gamma), gamma = tanh(sqrt(I / mean I)), I of an old task, its mean over the tensor", spg),
        h=ZERO,
        stage="gradient",
        needs=("gamma",),
        extra_passes="0, after I is measured",
        extra_state="1 per weight",
        source="Konishi et al. 2023, Parameter-Level Soft-Masking",
        scope="all",
    ),
    Rule(
        name="lfr_cm",
        purpose="do not forget",
        kind="optimizer",
        metric="fisher",
        f=ONE,
        g=Term("-1 where I <= tau, else 0", _below_threshold),
        h=ZERO,
        stage="parameter",
        needs=("tau",),
        extra_passes="0, after I is measured",
        extra_state="1 bit per weight",
        source="Gu et al. 2022; Li et al. 2023, section 2.2",
        scope="all",
    ),
    Rule(
        name="ewc",
        purpose="do not forget",
        kind="criterion",
        metric="fisher",
        f=Term("1 - eta lambda I", _ewc_decay),
        g=MINUS_ONE,
        h=Term("eta lambda I theta_A", _ewc_pull),
        stage="loss",
        needs=("eta", "lam", "anchor"),
        loss=LossTerm("1/2 sum I (theta - theta_A)^2", _quadratic),
        extra_passes="0, after I is measured",
        extra_state="2 per weight",
        source="Kirkpatrick et al. 2017; Li et al. 2023, eq. 6",
        scope="all",
    ),
    Rule(
        name="alignreg",
        purpose="compress",
        kind="criterion",
        metric="magnitude",
        f=Term("m", _mask),
        g=Term("-m", _minus_mask),
        h=Term("-m eta lambda dR/dtheta", _masked_descend),
        stage="loss and parameter",
        needs=("mask", "eta", "lam", "slope"),
        loss=LossTerm("-1/N sum_i |cos(theta_i, theta_A,i)| over N units", _misalignment),
        extra_passes="0",
        extra_state="1 per weight (the reference), 1 bit (m)",
        source="O'Neill et al. 2022, eq. 2, 3 and 6",
    ),
)

RULES: Mapping[str, Rule] = MappingProxyType({row.name: row for row in _ROWS})
"""The table: the row of each method by its name, in its default variant."""

# Other forms of a row, under the same name.
VARIANTS: tuple[Rule, ...] = (
    replace(
        RULES["weighted_freeze"],
        variant="printed",
        g=Term("-b, b ~ Bernoulli((I - min I) / (max I - min I))", freeze_printed),
        source="Li et al. 2023, Algorithm 1; the first author's code",
    ),
    replace(
        RULES["weighted_freeze"],
        variant="smooth",
        g=Term("-b, b ~ Bernoulli(sqrt((I - min I) / (2 (max I - min I))))", freeze_smooth),
        source="the first author's code, option smooth-scores",
    ),
    replace(
        RULES["weighted_freeze"],
        variant="random",
        g=Term("-b, b ~ Bernoulli(keep), keep: the mean of (max I - I) / (max I - min I), or fixed", freeze_random),
        needs=("rate", "u"),
        source="control: as many weights as `important`, chosen without regard to I",
    ),
    replace(
        RULES["sage"],
        variant="li",
        g=Term("-(|I - EMA(I)| + eps) / (I + eps)", sage_li),
        source="Li et al. 2023, eq. 2",
    ),
    replace(
        RULES["sage"],
        variant="light",
        g=Term("-(mean I + eps) / (I + eps)", sage_light),
        needs=("mean", "eps", "max_scale"),
        extra_state="none",
        source="Li et al. 2023, eq. 4 and section 4.2 (SAGE*)",
    ),
    replace(
        RULES["magma"],
        variant="skip_update",
        g=Term("-b / p, b ~ Bernoulli(p) for the tensor", skip_update),
        needs=("coin", "fraction"),
        extra_state="none",
        source="Joo et al. 2026, Algorithm 1 (SkipUpdate)",
        # The number drawn for seed 1, update 1 and a tensor called w is 0.43, which p = 0.5 exceeds: 1 - 0.1 * 2 * 0.5.
        example=Example((1.0, -2.0), (0.5, -1.0), (0.9, -1.8), (("fraction", 0.5),)),
    ),
    replace(RULES["intra_distillation"], variant="js", loss=JS, source="Xu et al. 2022, section 4.2"),
    replace(
        RULES["intra_distillation"],
        variant="r_drop",
        extra_passes="1",
        extra_state="none (2 outputs are alive at once)",
        source="Liang X. et al. 2021; K = 2, constant alpha",
    ),
)


def forms(name: str) -> list[Rule]:
    """The row `name` and its variants, the default first."""
    return [row for row in (*RULES.values(), *VARIANTS) if row.name == name]


def rule_of(name: str, variant: str = "") -> Rule:
    """The row `name`, or one of its variants."""
    if not variant:
        return RULES[name]
    for row in forms(name):
        if row.variant == variant:
            return row
    known = ", ".join(row.variant for row in forms(name) if row.variant) or "none"
    raise ValueError(f"{name} has no variant {variant!r}; its variants: {known}")


def rows() -> list[Rule]:
    """Every row, each followed by its variants, purpose by purpose."""
    return [form for name in RULES for form in forms(name)]


def as_markdown(selected: Sequence[Rule] | None = None) -> str:
    """The rows, by default all, as a Markdown table."""
    head = ("method", "purpose", "kind", "I", "f(I)", "g(I)", "h(I)", "stage", "extra passes", "extra state", "source")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows() if selected is None else selected:
        cells = (
            f"`{row.name}`" + f" ({row.variant})" * bool(row.variant),
            row.purpose,
            row.kind,
            row.metric,
            row.f.text,
            row.g.text,
            row.h.text + (f", R = {row.loss.text}" if row.loss else ""),
            row.stage,
            row.extra_passes,
            row.extra_state,
            row.source,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
