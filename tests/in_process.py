"""fairseq's training of a toy model in the process of the tests, which saves starting another."""

from pathlib import Path

import fairseq_cli.train
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq_runs import TOY_YAML, Fairseq

from weighted_freezing_fairseq.plugin.runs import load_config
from weighted_freezing_fairseq.plugin.trainer_events import TrainerListener

TOY = """
common: {{cpu: true, log_interval: 1, log_format: json}}
task: {{_name: translation, data: {data}, source_lang: x, target_lang: y}}
{toy}optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
dataset: {{max_tokens: 120, num_workers: 0, data_buffer_size: 0, required_batch_size_multiple: 1}}
optimization: {{max_update: 2, lr: [0.01], clip_norm: 0.5}}
checkpoint: {{no_epoch_checkpoints: true}}
"""


class Here(Fairseq):
    """fairseq's training in this process, which saves starting another; the last trainer stays at hand."""

    trainer: Trainer
    more_listeners: tuple[TrainerListener, ...] = ()

    def run(self, name: str, *settings: str, every: int = 0) -> Path:
        yaml = self.folder / "toy.yaml"
        yaml.write_text(TOY.format(toy=TOY_YAML, data=self.data))
        always = ["dataset.disable_validation=true", f"checkpoint.save_dir={self.folder / name}"]
        metrics.reset()
        fairseq_cli.train.main(load_config(yaml, [*always, *settings, f"common.log_importance={every}"]))
        return self.folder / name / "importance.csv"
