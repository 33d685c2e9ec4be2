"""What is measured: the shapes."""

from __future__ import annotations

from itertools import product

from benchmarks.cases import AVX2, BACKWARD, BOTH, FORWARD, IN_PLACE, OPS, Case

# Operators, directions, shape, dim, dtypes, what the shape stands for, variant.
# fmt: off
TABLE = [
    ("softmax", f"{FORWARD} {BOTH}", (32, 10), 1, "float32", "tiny classifier", ""),
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (128, 1000), 1, "float32",
     "ImageNet head, batch 128", ""),
    ("softmax log_softmax", FORWARD, (1024, 1000), 1, "float32", "ImageNet head, batch 1024", ""),
    ("softmax", FORWARD, (1024, 1000), 1, "bfloat16 float16 float64", "ImageNet head, batch 1024",
     ""),
    ("softmax log_softmax", BACKWARD, (1024, 1000), 1, "float32", "ImageNet head, batch 1024", ""),
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (4096, 128), 1, "float32",
     "attention rows, 128 keys", ""),
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (512, 4096), 1, "float32",
     "attention rows, 4096 keys", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (16384, 64), 1, "float32", "router, 64 experts", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (8, 12, 512, 512), 3, "float32 bfloat16",
     "attention, 12 heads, 512 keys", ""),
    ("softmax", BOTH, (8, 12, 512, 512), 3, "float32", "attention, 12 heads, 512 keys", ""),
    ("log_softmax", f"{FORWARD} {BOTH}", (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", ""),
    ("softmax", FORWARD, (8, 12, 512, 512), 3, "float16", "attention, 12 heads, 512 keys", ""),
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (4096, 32000), 1, "float32",
     "LM head, 32k vocabulary", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (4096, 32000), 1, "bfloat16", "LM head, 32k vocabulary",
     ""),
    ("log_softmax", FORWARD, (4096, 32000), 1, "bfloat16", "LM head, 32k vocabulary", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (8, 21, 256, 256), 1, "float32", "segmentation map", ""),
    ("softmax", FORWARD, (2000, 4096), 0, "float32", "assignment over the rows", ""),
    ("softmax", FORWARD, (32, 1000, 49), 1, "float32", "class map of 7x7", ""),
    ("cross_entropy", BOTH, (32, 10), 1, "float32", "tiny classifier", ""),
    ("cross_entropy", f"{FORWARD} {BOTH}", (4096, 10), 1, "float32", "10 classes", ""),
    ("cross_entropy", f"{FORWARD} {BOTH}", (4096, 100), 1, "float32", "100 classes", ""),
    ("cross_entropy", f"{FORWARD} {BOTH}", (1024, 1000), 1, "float32", "ImageNet head, batch 1024",
     ""),
    ("cross_entropy", BOTH, (1024, 1000), 1, "bfloat16", "ImageNet head, batch 1024", ""),
    ("cross_entropy", FORWARD, (4096, 32000), 1, "float32", "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (4096, 32000), 1, "float32 bfloat16 float16",
     "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (1024, 128256), 1, "float32 bfloat16 float16",
     "LM head, 128k vocabulary", ""),
    ("cross_entropy", BOTH, (4096, 32000), 1, "float32 bfloat16 float16",
     "LM head, 32k vocabulary", IN_PLACE),
    ("cross_entropy", BOTH, (1024, 128256), 1, "float32 bfloat16 float16",
     "LM head, 128k vocabulary", IN_PLACE),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float64", "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "label smoothing"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "class weights"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "distillation, 32k vocabulary",
     "probability targets"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "softcap and z-loss"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "reduction none"),
    ("cross_entropy", BOTH, (8, 21, 256, 256), 1, "float32 bfloat16", "segmentation map", ""),
    ("softmax log_softmax", f"{FORWARD} {BOTH}", (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", "causal mask"),
    ("softmax log_softmax", FORWARD, (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", "padding mask"),
    ("kl_div_with_logits", BOTH, (1024, 32000), 1, "float32 bfloat16",
     "distillation, 32k vocabulary", ""),
    ("selective_log_softmax", BOTH, (1024, 32000), 1, "float32 bfloat16",
     "policy gradient, 32k vocabulary", ""),
    ("entropy_with_logits", BOTH, (1024, 32000), 1, "float32", "policy gradient, 32k vocabulary",
     ""),
    ("softmax log_softmax", FORWARD, (128, 1000), 1, "float32", "ImageNet head, batch 128", AVX2),
    ("softmax log_softmax", FORWARD, (1024, 1000), 1, "float32", "ImageNet head, batch 1024", AVX2),
    ("softmax log_softmax", FORWARD, (4096, 128), 1, "float32", "attention rows, 128 keys", AVX2),
    ("softmax log_softmax", FORWARD, (512, 4096), 1, "float32", "attention rows, 4096 keys", AVX2),
]

# Time and memory against the number of classes.
VOCABULARIES = tuple(2**power for power in range(13, 19))
SWEEP_TOKENS = 512
SWEEP_TABLE = [
    ("cross_entropy", BOTH, (SWEEP_TOKENS, classes), 1, "float32", "vocabulary sweep", variant)
    for classes in VOCABULARIES
    for variant in ("", IN_PLACE)
]

QUICK_TABLE = [
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (16, 100), 1, "float32", "quick", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (2, 21, 8, 8), 1, "float32 bfloat16", "quick", ""),
    ("softmax", BOTH, (30, 40), 0, "float64", "quick", ""),
    ("cross_entropy", f"{FORWARD} {BOTH}", (16, 100), 1, "float32 bfloat16", "quick", ""),
    ("cross_entropy", BOTH, (2, 21, 8, 8), 1, "float32", "quick", ""),
    ("cross_entropy", BOTH, (16, 100), 1, "float32 float16", "quick", IN_PLACE),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "label smoothing"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "class weights"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "probability targets"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "softcap and z-loss"),
    ("softmax", BOTH, (2, 3, 16, 16), 3, "float32", "quick", "causal mask"),
    ("softmax", BOTH, (2, 3, 16, 16), 3, "float32", "quick", "padding mask"),
    ("kl_div_with_logits", BOTH, (16, 100), 1, "float32", "quick", ""),
    ("selective_log_softmax", BOTH, (16, 100), 1, "float32", "quick", ""),
    ("entropy_with_logits", BOTH, (16, 100), 1, "float32", "quick", ""),
]
# fmt: on


def expand(table: list[tuple]) -> list[Case]:
    """One case per operator, direction and dtype of each line; operators stay together."""
    cases = [
        Case(op, direction, shape, dim, dtype, stands_for, variant)
        for ops, directions, shape, dim, dtypes, stands_for, variant in table
        for op, dtype, direction in product(ops.split(), dtypes.split(), directions.split())
    ]
    return sorted(cases, key=lambda case: list(OPS).index(case.op))


CASES = expand(TABLE)
SWEEP_CASES = expand(SWEEP_TABLE)
QUICK_CASES = expand(QUICK_TABLE)
BY_NAME = {case.name: case for case in CASES + SWEEP_CASES + QUICK_CASES}
