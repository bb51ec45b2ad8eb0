"""Settings of checkpoints that fairseq evaluates: every one is known, literals pass, code is refused by name."""

import argparse
import ast
from pathlib import Path

import fairseq
import omegaconf
import pytest
import torch
from fairseq import checkpoint_utils

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin.evaluated_settings import EVALUATED, literal

# What fairseq does to old checkpoints; `plugin/mends` hides it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*(hydra|strict|_group_|version_base)")

CODE = "__import__('pathlib').Path({marker!r}).touch() or [(32, 3)]"
HOME = "${env:HOME}" if omegaconf.__version__ < "2.1" else "${oc.env:HOME}"
EVALUATORS = ("eval_str_list", "eval_str_dict", "eval_bool")
# Lines of a manifest and arguments of the evaluators themselves: no settings.
NOT_SETTINGS = {"x", "strip", "uf"}


def evaluated_in(tree: ast.AST) -> set[str]:
    """The names of what a module of fairseq evaluates."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        plain = isinstance(node.func, ast.Name) and node.func.id in ("eval", *EVALUATORS)
        if not plain and not (isinstance(node.func, ast.Attribute) and node.func.attr in EVALUATORS):
            continue
        value = node.args[0]
        if isinstance(value, ast.Call):  # getattr(args, "name", None), line.strip()
            value = value.args[1] if len(value.args) > 1 else value.func
        found.add(getattr(value, "attr", None) or getattr(value, "id", None) or value.value)
    return found


@pytest.mark.slow
def test_every_setting_that_fairseq_evaluates_is_known():
    package = Path(fairseq.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        if "examples" not in path.relative_to(package).parts:
            found |= evaluated_in(ast.parse(path.read_text(encoding="utf-8")))
    assert {"encoder_layers", "conv_feature_layers", "adam_betas", "pipeline_encoder_balance"} <= found
    assert found - NOT_SETTINGS <= EVALUATED


@pytest.mark.parametrize(
    "text",
    ["[(512, 3)] * 9 + [(1024, 3)] * 4 + [(2048, 1)] * 2", "3 * [(1, 64), (2, 128)]", "True", " (0.9, 0.98)", "None",
     "[True, False]", "1000,5000", "6", "-1", '{"name": "scaled_dot_product", "dropout": 0.1}', "[-1]", "1e-30, 1e-3",
     "('lm.bin', 'lexicon', 2, -1)", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"],
)  # fmt: skip
def test_literals_and_their_sums_and_repetitions_pass(text):
    assert literal(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "[print(1)]", "[0 for a in b]", "(lambda: 1)()", "f'{x}'", "x", "[].__class__", "[*x]",
     "[(1, 2)] * 100000", "[0] * 9000 + [0] * 9000", "'a' * 10 ** 9", "9 ** 9 ** 9", "[0] * (10000 * 10000)", "{**x}",
     "\"__import__('os')\"", "a b", "", "${oc.env:HOME}", "(" * 5000 + ")" * 5000, "+".join(["1"] * 9999),
     "[1] + 1", "1 if x else 2", "\0"],
    ids=range(23),
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError):
        literal(text)


def a_checkpoint(path, **settings):
    state = {
        "model": {}, "optimizer_history": [{"optimizer_name": "Adam", "lr_scheduler_state": {}, "num_updates": 1}],
        "extra_state": {"train_iterator": {"epoch": 1}}, **settings,
    }  # fmt: skip
    torch.save(state, path)
    return str(path)


WHERE = {
    "settings": lambda name, value: {"cfg": {"model": {"_name": "fconv", name: value}}},
    "namespace": lambda name, value: {"cfg": {"model": argparse.Namespace(_name="fconv", **{name: value})}},
    "nested": lambda name, value: {"cfg": {"model": {"w2v_args": argparse.Namespace(model={"list": [{name: value}]})}}},
    "args": lambda name, value: {"args": argparse.Namespace(arch="fconv", **{name: value})},
}


@pytest.mark.parametrize("where", WHERE)
def test_code_in_a_setting_is_refused_by_name_wherever_it_stands(tmp_path, where):
    code = CODE.format(marker=str(tmp_path / "ran"))
    path = a_checkpoint(tmp_path / "evil.pt", **WHERE[where]("encoder_layers", code))
    with pytest.raises(UserError) as refused:
        checkpoint_utils.load_checkpoint_to_cpu(path)
    said = str(refused.value)
    assert said.startswith(f"{path} was not loaded: fairseq would run its setting ") and "encoder_layers" in said
    assert "__import__('pathlib')" in said and "\n" not in said and "[(512, 3)] * 20" in said
    assert "--model-overrides \"{'encoder_layers': '...'}\"" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", sorted(EVALUATED))
def test_every_evaluated_setting_is_looked_at(tmp_path, name):
    load = checkpoint_utils.load_checkpoint_to_cpu
    with pytest.raises(UserError, match=f"its setting model.{name} as Python"):
        load(a_checkpoint(tmp_path / "evil.pt", cfg={"model": {name: "print('code')"}}))
    with pytest.raises(UserError, match=f"its setting model.{name} as Python"):
        load(a_checkpoint(tmp_path / "evil.pt", cfg={"model": argparse.Namespace(**{name: b"print('code')"})}))
    load(a_checkpoint(tmp_path / "good.pt", cfg={"model": {name: "[(512, 3)] * 20"}}))


@pytest.mark.parametrize(
    ("where", "text"),
    [*((where, text) for where in WHERE for text in (HOME, "to/${now:%Y}")),
     ("settings", "${${task.x}:HOME}")],
)  # fmt: skip
def test_a_setting_that_asks_a_resolver_is_refused(tmp_path, where, text):
    path = a_checkpoint(tmp_path / "evil.pt", **WHERE[where]("data", text))
    with pytest.raises(UserError, match=r"was not loaded: its setting \S*data asks for something of this machine"):
        checkpoint_utils.load_checkpoint_to_cpu(path)


def test_a_setting_may_name_another_one_but_not_in_what_is_evaluated(tmp_path):
    cfg = {"task": {"data": "bin"}, "model": {"data": "${task.data}/${task.data}"}}
    state = checkpoint_utils.load_checkpoint_to_cpu(a_checkpoint(tmp_path / "good.pt", cfg=cfg))
    assert state["cfg"].model.data == "bin/bin"
    cfg["model"]["encoder_layers"] = "${task.data}"
    with pytest.raises(UserError, match="encoder_layers"):
        checkpoint_utils.load_checkpoint_to_cpu(a_checkpoint(tmp_path / "evil.pt", cfg=cfg))


def test_the_users_own_value_takes_the_place_of_what_was_refused(tmp_path):
    path = a_checkpoint(tmp_path / "evil.pt", **WHERE["settings"]("encoder_layers", "print(1)"))
    state = checkpoint_utils.load_checkpoint_to_cpu(path, {"encoder_layers": "[(32, 3)]"})
    assert state["cfg"].model.encoder_layers == "[(32, 3)]"
