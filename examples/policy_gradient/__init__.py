"""Policy gradient: REINFORCE with an entropy bonus in a grid world.

Run it from the root of the repository with `python -m examples.policy_gradient`.
"""
