"""What fairseq does at each place that a mend repairs, asked in a process of its own before and after that mend alone.

Run with WFF_MENDS=none; prints one JSON object: name of a mend -> [what stock fairseq does, what it does mended]. An
exception counts as its type's name.
"""

import argparse
import atexit
import contextlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options, trainer, utils
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.data.iterators import BufferedIterator
from fairseq.dataclass import initialize
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq.nan_detector import NanDetector
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks.sentence_prediction import SentencePredictionConfig as SentencePredictionTaskConfig
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torch import nn

import weighted_freezing_fairseq

ran = []  # by the code in a checkpoint


class Code:
    """Unpickling this runs code."""

    def __reduce__(self):
        return note, ("ran",)


def note(text):
    ran.append(text)


def load(**content):
    state = {"model": {}, "args": None, "cfg": None, "last_optimizer_state": None, "extra_state": {"epoch": 1}}
    history = [{"criterion_name": "c", "optimizer_name": "o", "lr_scheduler_state": {}, "num_updates": 0}]
    torch.save({**state, "optimizer_history": history, **content}, "checkpoint.pt")
    return checkpoint_utils.load_checkpoint_to_cpu("checkpoint.pt")


def allow_fairseq_checkpoints():
    return load(args=argparse.Namespace(arch="fconv", task="translation"))["cfg"].model.arch


def load_without_code():
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # as torch before 2.6 is
    with contextlib.suppress(Exception):
        load(code=Code())
    return bool(ran and ran.pop())


def explain_refused_checkpoints():
    return bool(load(code=Code()))


def refuse_code_in_settings():
    return load(cfg={"model": {"encoder_layers": "__import__('os')"}})["cfg"].model.encoder_layers


def verify_checksums():
    load(model={"w": torch.full((100,), 2.0)})
    path = Path("checkpoint.pt")
    path.write_bytes(path.read_bytes().replace(b"\0\0\0\x40" * 100, b"\0\0\0\x40" * 99 + b"\0\0\0\x41"))
    return float(checkpoint_utils.load_checkpoint_to_cpu("checkpoint.pt")["model"]["w"][-1])


def drop_copied_weights():
    return list(load(model={"encoder.layers.0.fc1_weight": torch.ones(1), "w": torch.ones(1)})["model"])


@contextlib.contextmanager
def processes(rank=0, count=1):
    store = f"file://{Path('rendezvous').absolute()}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    try:
        yield torch.distributed.group.WORLD
    finally:
        torch.distributed.destroy_process_group()
        Path("rendezvous").unlink(missing_ok=True)


def broadcast_checkpoints():
    read, write = os.pipe()
    if os.fork() == 0:
        with processes(1, 2) as group:
            os.write(write, outcome(lambda: received(group)).encode())
            os._exit(0)
    os.close(write)
    with processes(0, 2) as group:
        distributed_utils._broadcast_object_slow(argparse.Namespace(lr=1), 0, group, torch.device("cpu"))
        return os.read(read, 100).decode()


def received(group):
    return f"lr {distributed_utils._broadcast_object_slow(None, 0, group, torch.device('cpu')).lr}"


def copy_checkpoints_atomically():
    Path("new.pt").write_bytes(b"new" * 10_000)
    Path("last.pt").write_bytes(b"old")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the disk is full in the middle of the copy
    with contextlib.suppress(OSError):
        PathManager.copy("new.pt", "last.pt", True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return Path("last.pt").read_bytes() == b"old"


def hide_known_warnings():
    with warnings.catch_warnings(record=True) as seen:
        warnings.warn("`torch.cuda.amp.autocast(args...)` is deprecated", FutureWarning, stacklevel=2)
    return len(seen)


def accept_second_user_dir():
    link = Path("weighted_freezing_fairseq")
    if not link.is_symlink():
        link.symlink_to(Path(weighted_freezing_fairseq.__file__).parent)
    utils.import_user_module.memo = set()
    return utils.import_user_module(argparse.Namespace(user_dir=str(link)))


def name_invalid_settings():
    typed = {"overrides": {"task": ["criterion.sentense_avg=true"]}}
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": typed})  # as under fairseq-hydra-train
    settings = {"common": {"user_dir": None}, "criterion": {"_name": "cross_entropy", "sentense_avg": True}}
    try:
        return initialize.add_defaults(OmegaConf.create(settings))
    except SystemExit as end:
        return str(end).partition("?")[0]


TRAIN = ["data", "--arch", "transformer_iwslt_de_en", "--optimizer", "adam"]


def use_bf16_without_tpu():
    return options.parse_args_and_arch(options.get_training_parser(), [*TRAIN, "--bf16"]).tpu


def show_every_flag_in_help():
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        options.parse_args_and_arch(options.get_training_parser(), [*TRAIN, "--help"])
    return "--adam-betas" in text.getvalue()


def task():
    words = Dictionary()
    words.add_symbol("w")
    return TranslationTask(OmegaConf.structured(TranslationConfig()), words, words)


def keep_batches_on_resume():
    def batches(epoch):
        sentences = [torch.tensor([4] * (1 + n % 3) + [2]) for n in range(40)]
        sizes = [len(sentence) for sentence in sentences]
        new = task()
        pairs = LanguagePairDataset(sentences, sizes, new.source_dictionary, sentences, sizes, new.target_dictionary)
        iterator = new.get_batch_iterator(pairs, max_tokens=12, seed=1, epoch=epoch)
        assert iterator.next_epoch_idx == epoch
        return [list(map(int, batch)) for batch in iterator.frozen_batches]

    return batches(1) == batches(3)


class Endless:
    def __len__(self):
        return 10**9

    def __iter__(self):
        while True:
            yield torch.rand(100).sort()


def stop_readers_at_exit():
    batches = BufferedIterator(2, Endless())
    next(batches)
    atexit._run_exitfuncs()
    batches._consumer.join(0.5)
    return batches._consumer.is_alive()


def wrap_cpu_models():
    with processes():
        wrap = distributed_fairseq_model.DistributedDataParallel
        return type(wrap(module=nn.Linear(2, 2), device_ids=[0], output_device=0)).__name__


def gather_predictions():
    words = Dictionary()
    labelled = SentencePredictionTask(SentencePredictionTaskConfig(), words, words)
    criterion = SentencePredictionCriterion(SentencePredictionConfig(), labelled).eval()
    criterion.keep_pred_and_targ = True  # as --report-mcc sets it
    with processes() as group:
        gathered = outcome(lambda: distributed_utils.all_gather_list([1, 2], group))
    return [criterion.logging_outputs_can_be_summed(), gathered]


def unscale_once_under_amp():
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = {"_name": "sgd", "lr": [1.0], "momentum": 0.0, "weight_decay": 0.0}
    weight = nn.Parameter(torch.zeros(1))
    amp = AMPOptimizer.build_optimizer(cfg, [weight])
    amp._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128.0)  # fairseq's own needs a GPU
    amp.backward(weight.sum())
    amp.clip_grad_norm(0.0)
    amp.step()
    return -weight.item()


def skip_overflows_on_cpu():
    return float(trainer.torch.tensor(0.0).cuda())


class Encoder(nn.Linear):
    def forward(self, x):
        return {"encoder_out": [super().forward(x) / 0]}


def name_nonfinite_module():
    model = nn.Sequential(Encoder(2, 2))
    with NanDetector(model):
        return type(model(torch.ones(3, 2))).__name__


def avoid_broken_fast_path():
    return TransformerEncoderLayerBase(TransformerConfig()).can_use_fastpath


def outcome(probe):
    try:
        return probe()
    except Exception as error:
        return type(error).__name__


def before_and_after(mend):
    """In a process of its own, so that each mend is alone."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        with os.fdopen(read) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return json.loads(text or '"the process ended"')
    atexit._clear()
    probe = globals()[mend.name]
    stock = outcome(probe)
    mend.apply()
    os.write(write, json.dumps([stock, outcome(probe)]).encode())
    os._exit(0)


def main():
    weighted_freezing_fairseq.register()
    from weighted_freezing_fairseq.plugin.mends.registry import MENDS, report

    assert not [entry["name"] for entry in report() if entry["state"] == "applied"]
    sys.argv = sys.argv[:1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(json.dumps({name: before_and_after(mend) for name, mend in MENDS.items() if name in globals()}))
