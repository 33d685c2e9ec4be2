"""A small decoder-only language model of Python source."""

import sys
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.demo.text import byte_pair_vocabulary, encode, standard_library
from examples.demo.training import SEED, Batch, Task


@dataclass(frozen=True)
class Size:
    """Of the text, in characters and tokens, of the network, and of its training."""

    characters: int
    vocabulary: int
    width: int
    layers: int
    heads: int
    context: int
    sequences: int
    steps: int
    held_out_batches: int


FULL = Size(4_000_000, 16384, 128, 2, 4, 128, 16, 50, 4)
QUICK = Size(400_000, 2048, 32, 1, 2, 64, 4, 12, 1)


# Rounding alone, amplified by training: -log_softmax + gather, logsumexp, the closed-form gradient
# and nn.CrossEntropyLoss in float64 stayed within 4.3e-6 nats of float32 nn.CrossEntropyLoss, the
# closed-form gradient within 4.9e-5 for learning rates of 3e-3 to 7e-3 and wider initial positions.
# This is 20 times that. At 1e-2 it was 7.5e-4: the higher the rate, the less two curves can tell.
TOLERANCE = 1e-3


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each added to its normalised input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width, bias=False)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, input: Tensor) -> Tensor:
        """(sequences, context, width) to the same shape."""
        heads = self.query_key_value(self.norm(input)).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = input + self.projection(attended.transpose(1, 2).flatten(2))
        return hidden + self.perceptron(hidden)


class Decoder(nn.Module):
    """Tokens (sequences, context) to hidden states (sequences * context, width)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.token = nn.Embedding(size.vocabulary, size.width)
        self.position = nn.Parameter(0.1 * torch.randn(size.context, size.width))
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, input: Tensor) -> Tensor:
        """The hidden state at every token, from the tokens up to it."""
        return self.norm(self.blocks(self.token(input) + self.position)).flatten(0, 1)


def network(size: Size) -> nn.Sequential:
    """The decoder and its output layer."""
    return nn.Sequential(Decoder(size), nn.Linear(size.width, size.vocabulary, bias=False))


def windows(tokens: Tensor, size: Size, count: int) -> list[Batch]:
    """`count` batches of randomly placed windows, and for each token the one that follows it."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (count, size.sequences, 1)
    starts = torch.randint(len(tokens) - size.context, shape, generator=generator)
    places = starts + torch.arange(size.context)
    return [(tokens[place], tokens[place + 1].flatten()) for place in places]


def task(quick: bool) -> Task:
    """Next-token prediction by AdamW; accuracy is that of the likeliest token on unseen files."""
    size = QUICK if quick else FULL
    train, held_out = standard_library(size.characters, SEED)
    print(
        f"learning a vocabulary of {size.vocabulary} tokens from "
        f"{len(train)} files of Python's standard library ...",
        file=sys.stderr,
    )
    tokenizer = byte_pair_vocabulary(train, size.vocabulary)
    tokens = encode(tokenizer, train)
    parameters = sum(parameter.numel() for parameter in network(size).parameters())
    return Task(
        name="language model",
        description=f"decoder-only transformer of {size.layers} layers and width {size.width} "
        f"with {size.vocabulary:,} tokens and {parameters / 1e6:.1f} M parameters, {size.steps} "
        f"steps of AdamW on {size.sequences * size.context:,} of {len(tokens):,} tokens of "
        f"Python's standard library, tested on {len(held_out)} other files of it",
        network=partial(network, size),
        optimizer=partial(torch.optim.AdamW, lr=5e-3),
        batches=windows(tokens, size, size.steps),
        held_out=windows(encode(tokenizer, held_out), size, size.held_out_batches),
        tolerance=TOLERANCE,
    )
