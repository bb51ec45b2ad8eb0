"""What both examples classify: sentences of random words, by which of two words they hold more often.

A stand-in for XNLI or PAWS-X that needs no download; the model is an XLM-R of 0.1 million random weights. For real work
take `AutoModelForSequenceClassification.from_pretrained("xlm-roberta-base")` and a tokenizer's output in their place.
"""

import torch
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

WORDS, LENGTH, FIRST = 64, 12, 5  # of them 0 to 4 mean something to XLM-R


def tiny_xlmr(seed: int) -> XLMRobertaForSequenceClassification:
    """A model that learns the task in seconds."""
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH + 4, num_labels=2,
    )  # fmt: skip
    return XLMRobertaForSequenceClassification(config)


class Sentences(torch.utils.data.Dataset):
    """`count` of them, equal for equal seeds, as what a tokenizer makes of text."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        words = torch.randint(FIRST, FIRST + 6, (count, LENGTH), generator=generator)
        more = (words == FIRST).sum(1) - (words == FIRST + 1).sum(1)
        self.words, self.labels = words[more != 0], (more > 0).long()[more != 0]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        words = self.words[place]
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": self.labels[place]}
