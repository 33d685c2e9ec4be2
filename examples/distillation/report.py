"""The table of results."""

from examples.distillation.comparison import Comparison
from examples.distillation.data import CLASSES
from examples.distillation.training import IMAGES_PER_CLASS, STUDENT_WIDTH, TEACHER_WIDTH
from examples.report import machine_line, spread, table


def markdown(comparison: Comparison, held_out: str) -> str:
    """The table and what it is of; `held_out` names the images that the figures are of."""
    settings, teacher = comparison.settings, comparison.teacher
    rows = [
        ("network", "trained on", "accuracy, %", "cross-entropy, nats"),
        (
            f"teacher, 64-{TEACHER_WIDTH}-{TEACHER_WIDTH}-{CLASSES}",
            f"labels of {len(comparison.train):,} images",
            f"{100 * teacher.accuracy.item():.1f}",
            f"{teacher.cross_entropy.item():.3f}",
        ),
    ]
    few = f"labels of {IMAGES_PER_CLASS * CLASSES} images"
    students = {few: comparison.on_labels, f"{few} and the teacher": comparison.distilled}
    for trained_on, scores in students.items():
        rows.append(
            (
                f"student, 64-{STUDENT_WIDTH}-{CLASSES}",
                trained_on,
                spread(100 * scores.accuracy[:, -1], ".1f"),
                spread(scores.cross_entropy[:, -1], ".3f"),
            )
        )
    better = (comparison.gains > 0).sum().item()
    return f"""\
{table(rows)}

On {held_out} of scikit-learn's handwritten digits; of the students the mean ± standard
deviation over {settings.seeds} seeds. For each seed the two students see the same images in the \
same order,
begin with the same weights and train for {settings.steps} steps of Adam: only the loss differs.

- the teacher's soft targets: {100 * comparison.gains.mean().item():+.1f} points of accuracy, \
standard error {100 * comparison.standard_error:.1f}, better for {better} of {settings.seeds} seeds
- loss of the distilled student: {settings.soft_weight:g} · kl_div_with_logits at temperature \
{settings.temperature:g} + {1 - settings.soft_weight:.2g} · cross_entropy
- {machine_line("torch", "scikit-learn")}
"""
