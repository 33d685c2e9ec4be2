"""A softmax policy on linear features, and its score function.

Run it from the root of the repository with `python -m examples.softmax_policy`.
"""
