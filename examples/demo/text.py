"""Text that every machine has: the source of Python's standard library, as tokens."""

import random
import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

# Not ordinary code: tables of code points, one long help text, and what distributions leave out.
SKIPPED = {"encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo"}


def standard_library(characters: int, seed: int) -> tuple[list[str], list[str]]:
    """Source files of about `characters` in all, split nine to one into training and held-out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = []
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        paths += [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]
    paths = [
        path
        for path in paths
        if path.is_file() and not {"test", "tests"} & {*path.relative_to(root).parts}
    ]
    random.Random(seed).shuffle(paths)
    texts = []
    for path in paths:
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        characters -= len(texts[-1])
        if characters <= 0:
            break
    held_out = len(texts) // 10
    return texts[held_out:], texts[:held_out]


def byte_pair_vocabulary(texts: list[str], size: int) -> Tokenizer:
    """A byte-level BPE vocabulary of exactly `size` tokens learnt from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False),
    )
    if tokenizer.get_vocab_size() != size:
        raise RuntimeError(
            f"expected a vocabulary of {size} tokens, got {tokenizer.get_vocab_size()} "
            f"from {sum(map(len, texts))} characters"
        )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """The tokens of all texts in a row, int64."""
    return torch.tensor([token for code in tokenizer.encode_batch(texts) for token in code.ids])
