"""Files of torch.save, damaged and crafted on purpose, and what all of them have in common: one line, status 2."""

import warnings
from pathlib import Path

import torch

from weighted_freezing_fairseq.__main__ import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch says that sparse rows and quantized tensors are on trial
    UNUSUAL = {
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.ones(3, device="meta"),
        "expanded": torch.zeros(1).expand(2**40),
        "conjugate": torch.ones(3, dtype=torch.complex64).conj(),
    }
    if torch.__version__ >= "2.6":  # before, torch itself does not load it
        UNUSUAL["jagged"] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
BAD_NUMBERS = {
    "nan": torch.tensor([1.0, float("nan")]),
    "infinite": torch.tensor([float("-inf"), 1.0]),
    "complex": torch.ones(2, dtype=torch.complex64),
}


def flip(path: Path, words: bytes) -> None:
    """One bit of the only place in the file that holds `words`."""
    data = path.read_bytes()
    assert data.count(words) == 1
    at = data.index(words)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def refused(capsys, *words: object) -> str:
    """The one line of a call that is refused."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said.err
    return said.err
