"""A neural network whose backward pass is written by hand.

Run it from the root of the repository with `python -m examples.hand_written_backward`.
"""
