"""Knowledge distillation: a small network learns from a large one.

Run it from the root of the repository with `python -m examples.distillation`.
"""
