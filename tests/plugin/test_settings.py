"""A setting that fairseq would refuse is named with what it may be, before a training is started."""

import re

import omegaconf
import pytest
from omegaconf import OmegaConf

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.hydra_train import as_override
from weighted_freezing_fairseq.plugin.settings import refuse_invalid
from weighted_freezing_fairseq.workspace.configs import CONFIGS

FREEZE = "toy/weighted_freeze.yaml"
FROM_OMEGACONF_2_1 = pytest.mark.skipif(omegaconf.__version__ < "2.1", reason="it does not look into lists")


def changed(name, *settings):
    return OmegaConf.merge(OmegaConf.load(CONFIGS / name), OmegaConf.from_dotlist(list(settings)))


@pytest.mark.slow
def test_every_yaml_of_the_repository_is_valid():
    paths = list(CONFIGS.rglob("*.yaml"))
    assert paths
    for path in paths:
        refuse_invalid(OmegaConf.load(path))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.base_optimizer=adma", "base_optimizer=adma: did you mean adamax or adam\\? must be one of "
                                          "adadelta, adafactor, .*, adam, "),
        ("optimizer._name=weighted_frezze", "did you mean weighted_freeze\\? must be one of .*, sage, "),
        ("optimizer._name=sgd", "sgd has no defaults .*: optimizer.momentum, .*, optimizer.lr must"),
        ("optimizer._name=adagrd", "optimizer._name=adagrd: (did you mean adam\\? )?must be one of adam,"),
        ("optimizer.freeze_aply=update", "optimizer.freeze_aply: did you mean freeze_apply( or \\w+)?\\? must be"),
        ("optimizr.lr=1", "unknown section optimizr: did you mean optimizer( or \\w+)?\\? must be"),
        ("criterion._name=intra_distilation", "did you mean intra_distillation( or \\w+)?\\? must be"),
        ("criterion.label_smoothing=much", "invalid value criterion.label_smoothing=much: must be a number"),
        ("task._name=translatoin", "did you mean translation( or \\w+)?\\? must be"),
        ("model._name=transformer_iwslt_en_de", "did you mean transformer_wmt_en_de or transformer_iwslt_de_en"),
        ("model.encoder.layerz=2", "unknown setting model.encoder.layerz: did you mean layers( or \\w+)?\\? must be"),
        ("model.dropuot=0.1", "unknown setting model.dropuot: did you mean dropout( or \\w+)?\\? must be"),
        ("model.encoder_layerz=2", "unknown setting model.encoder_layerz: did you mean encoder_layers"),
        ("model.dropout=much", "must be a number"),
        ("lr_scheduler._name=inverse_sqt", "did you mean inverse_sqrt( or \\w+)?\\? must be"),
        ("lr_scheduler.warmup_updates=1.5", "lr_scheduler.warmup_updates=1.5: must be a whole number"),
        ("dataset.max_token=800", "did you mean max_tokens( or \\w+)?\\? must be"),
        ("dataset.max_tokens=many", "dataset.max_tokens=many: must be a whole number, or null"),
        ("dataset.num_workers=1.5", "must be a whole number"),
        ("optimization.lr=0.1", r"optimization.lr=0.1: must be a list, as \[1\]: each a number"),
        pytest.param("optimization.lr=[fast]", "must be a list", marks=FROM_OMEGACONF_2_1),
        ("optimization.max_updates=9", "did you mean max_update( or \\w+)?\\? must be"),
        ("checkpoint.no_epoch_checkpoints=maybe", "must be true or false"),
        ("checkpoint.save_interval_update=9", "did you mean save_interval_updates( or \\w+)?\\? must be"),
        ("common.sead=1", "did you mean seed( or \\w+)?\\? must be"),
        ("common.log_format=xml", "must be one of json, none, simple, tqdm"),
        ("common.log_importance=often", "must be a whole number"),  # the package's own
        ("dataset=small", "setting dataset must be a mapping of keys to values, got 'small'"),
    ],
)  # fmt: skip
def test_what_fairseq_does_not_know_is_refused(setting, said):
    with pytest.raises(UserError) as error:
        refuse_invalid(changed(FREEZE, setting))
    assert re.search(said, str(error.value)), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer.base_optimizer=sgd", "optimizer.momentum=0.9"],
        ["optimization.lr=[1]", "optimizer.adam_betas='(0.9, 0.99)'"],  # a whole number is a number
        ["lr_scheduler=fixed", "model.encoder_layers=3", "model.dropout=0"],
        ["common.seed=7", "dataset.max_tokens=null", "dataset.batch_size=8", "criterion.label_smoothing=???"],
    ],
)
def test_what_fairseq_takes_is_not_refused(settings):
    refuse_invalid(changed(FREEZE, *settings))


def test_a_part_that_is_null_on_the_command_line_is_refused():
    with pytest.raises(UserError, match="optimizer=null: must be a name; type optimizer=NAME"):
        as_override("optimizer=null", ["optimizer"])


def test_a_part_without_a_name_is_refused():
    settings = changed(FREEZE)
    del settings.criterion["_name"]
    with pytest.raises(UserError, match="setting criterion._name is missing; must be one of .*cross_entropy"):
        refuse_invalid(settings)


def test_models_that_declare_flags_know_their_own():
    refuse_invalid(changed("toy/switch_transformer.yaml", "model.switch_every=1"))
    refuse_invalid(changed("glue/standard.yaml", "model.encoder_layers=2", "model.pooler_dropout=0.1"))
    with pytest.raises(UserError, match="did you mean switch_every"):
        refuse_invalid(changed("toy/switch_transformer.yaml", "model.switch_evry=1"))
    with pytest.raises(UserError, match="did you mean encoder_layers"):
        refuse_invalid(changed("glue/standard.yaml", "model.encoder_layer=2"))
