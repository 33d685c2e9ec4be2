"""Softmax regression by Newton's method and by SGD.

Run it from the root of the repository with `python -m examples.softmax_regression`.
"""
