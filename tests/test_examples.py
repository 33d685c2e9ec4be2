"""The examples run end to end, their claims hold, and they notice where one does not."""

import pytest
import torch
from torch.distributions import Categorical

import examples.distillation.__main__ as distillation
import examples.policy_gradient.__main__ as policy_gradient
from examples.policy_gradient.comparison import compare
from examples.policy_gradient.grid_world import MOVES, grid_world
from examples.policy_gradient.reinforce import LONGEST, Episodes, play, policy_loss

pytestmark = pytest.mark.once


def files_of(folder, name):
    """The report; the picture is there too."""
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return (folder / f"{name}.md").read_text(encoding="utf-8")


def test_distillation_makes_the_student_better(tmp_path, capsys):
    arguments = ["--steps", "150", "--seeds", "3", "--output", str(tmp_path)]
    assert distillation.main(arguments) == 0
    report = files_of(tmp_path, "distillation")
    assert report in capsys.readouterr().out
    assert "better for 3 of 3 seeds" in report
    assert "On 450 test images" in report


def test_distillation_without_the_teacher_is_the_same_student(tmp_path, capsys):
    """The same images, initial weights and order: without soft targets nothing differs."""
    arguments = ["--steps", "20", "--seeds", "2", "--soft-weight", "0", "--validation"]
    assert distillation.main([*arguments, "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "got +0.00 points with a standard error of 0.00" in errors
    assert "cross-entropy to be below" in errors
    report = files_of(tmp_path, "distillation")
    assert "On 337 validation images" in report
    on_labels, distilled = (
        line.split("|")[3:] for line in report.splitlines() if line.startswith("| student")
    )
    assert on_labels == distilled


def test_policy_gradient_learns_a_near_optimal_policy(tmp_path, capsys):
    arguments = ["--steps", "150", "--seeds", "2", "--output", str(tmp_path)]
    assert policy_gradient.main(arguments) == 0
    report = files_of(tmp_path, "policy_gradient")
    assert report in capsys.readouterr().out
    assert "| 0.680 " in report


def test_policy_gradient_fails_where_it_has_not_learned(tmp_path, capsys):
    assert policy_gradient.main(["--steps", "2", "--seeds", "2", "--output", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "FAILED: expected the mean return of the policy to be at least 0.646" in errors
    assert "FAILED: expected the mean return of the greedy policy" in errors


def test_entropy_falls_while_an_agent_learns():
    (training,) = compare(grid_world(), [0.0], steps=30, seeds=2).trainings
    assert training.returns.shape == training.entropies.shape == (2, 30)
    assert (training.returns[:, -1] > training.returns[:, 0]).all()
    assert (training.entropies[:, -1] < training.entropies[:, 0]).all()
    # All moves are equally likely at first.
    torch.testing.assert_close(training.entropies[:, 0], torch.tensor(4.0).log().expand(2))


def test_policy_loss_is_that_of_a_categorical_distribution():
    logits = 10 * torch.randn(7, 5, 4)
    logits[0, 0] += 100
    moves, advantage = torch.randint(4, (7, 5)), torch.randn(7, 5)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses, entropy = policy_loss(ours, moves, advantage, 0.3)
    policy = Categorical(logits=theirs)
    expected = -(advantage * policy.log_prob(moves) + 0.3 * policy.entropy())
    # Both in float32, where numbers around 100 are 8e-6 apart; the advantages are below 4.
    close = {"rtol": 1e-5, "atol": 4e-5}
    torch.testing.assert_close(losses, expected, **close)
    torch.testing.assert_close(entropy, policy.entropy(), **close)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **close)


def test_returns_are_discounted_from_the_end():
    rewards = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 0.0]])
    unused = torch.zeros(3, 2, dtype=torch.int64)
    returns = Episodes(unused, unused, rewards, unused.bool()).returns()
    expected = [[0.97 * (2 + 0.97 * 3), 1.0], [2 + 0.97 * 3, 0.0], [3.0, 0.0]]
    torch.testing.assert_close(returns, torch.tensor(expected))


def test_probabilities_of_the_grid_world_sum_to_1():
    world = grid_world()
    sums = world.probabilities.sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_optimal_values_are_those_of_the_best_policy_and_solve_a_corridor():
    world = grid_world()
    optimal = world.optimal_values()
    best = torch.nn.functional.one_hot(world.gains(optimal).argmax(1), len(MOVES))
    torch.testing.assert_close(world.values(best), optimal)
    # Moves along a corridor go astray into a wall with probability 0.1: each takes 1, 2, ... steps.
    corridor = grid_world("S.G")
    step = 0.9 / (1 - 0.97 * 0.1)
    expected = torch.tensor([0.97 * step**2, step], dtype=torch.float64)
    torch.testing.assert_close(corridor.optimal_values()[:2], expected)


def test_episodes_return_what_the_values_say():
    world = grid_world()
    best = world.gains(world.optimal_values()).argmax(1)
    policy = torch.nn.functional.one_hot(best, len(MOVES)).float()
    generator = torch.Generator().manual_seed(0)
    episodes = [play(world, policy, generator) for _ in range(30)]
    assert all(len(episode.rewards) <= LONGEST for episode in episodes)
    returns = torch.cat([episode.returns()[0] for episode in episodes])
    # Five standard errors of the mean.
    error = 5 * (returns.std() / len(returns) ** 0.5).item()
    assert returns.mean().item() == pytest.approx(
        world.values(policy)[world.start].item(), abs=error
    )


@pytest.mark.parametrize("example", [distillation, policy_gradient])
def test_one_seed_is_an_error(example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.main(["--seeds", "1", "--output", str(tmp_path)])
    assert "argument --seeds: expected at least 2, got 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
