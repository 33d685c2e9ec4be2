"""The policy pi(a|s) = softmax over a of theta · phi(s, a) / T, and its gradients by formula.

Shapes: S states, A actions, D features; features phi (S, A, D), theta (D).
"""

from torch import Tensor

import torchsoftmax


def probabilities(features: Tensor, theta: Tensor, temperature: float = 1.0) -> Tensor:
    """Of each action in each state, (S, A)."""
    return torchsoftmax.softmax(features @ theta, dim=-1, temperature=temperature)


def scores(features: Tensor, theta: Tensor, temperature: float = 1.0) -> Tensor:
    """Gradient of log pi(a|s) by theta for each action in each state, (S, A, D).

    The features of the action less those that the policy expects, over the temperature.
    """
    p = probabilities(features, theta, temperature).unsqueeze(-1)
    expected = (p * features).sum(dim=-2, keepdim=True)
    return (features - expected) / temperature


def policy_gradient(features: Tensor, theta: Tensor, rewards: Tensor) -> Tensor:
    """Gradient of the mean over states of the expected reward, (D); rewards (S, A).

    The mean of reward times score, over the actions of the policy: the policy gradient theorem for
    one step.
    """
    p = probabilities(features, theta)
    weighted = (p * rewards).unsqueeze(-1) * scores(features, theta)
    return weighted.sum(dim=-2).mean(dim=0)


def estimate(features: Tensor, theta: Tensor, rewards: Tensor, actions: Tensor) -> Tensor:
    """The same from one action in each state, (S), less the mean reward as the baseline (D)."""
    chosen = actions.unsqueeze(-1)
    reward = rewards.gather(-1, chosen)
    score = scores(features, theta).take_along_dim(chosen.unsqueeze(-1), dim=-2).squeeze(-2)
    return ((reward - reward.mean()) * score).mean(dim=0)
