"""Gradients of the exact likelihood, and what its maximum recovers."""

import math

import numpy as np
import pytest
import torch

import neurosde as nsde


def ornstein_uhlenbeck(parameters):
    """theta, mu, sigma and the observation variance from one unconstrained vector."""
    theta, sigma, variance = parameters[[0, 2, 3]].exp()
    sde = nsde.LinearSDE(-theta.reshape(1, 1), (theta * parameters[1]).reshape(1), sigma.reshape(1, 1))
    return sde, (torch.ones(1, 1), variance)


def maximise(log_likelihood, parameters):
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = -log_likelihood()
        loss.backward()
        return loss

    optimiser.step(closure)


@pytest.fixture(scope="module")
def fitted():
    """Parameters fitted to 2,000 simulated series on their own times, the true ones, and fresh series."""
    true = torch.tensor([math.log(0.7), 1.5, math.log(0.5), math.log(0.04)], dtype=torch.float64)
    sde, observation = ornstein_uhlenbeck(true)
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 12, (2500, 12)), axis=1)
    paths = sde.sample(sde.stationary().sample(2500, seed=0), times, seed=1)
    values = paths + math.sqrt(float(observation[1])) * torch.as_tensor(rng.normal(size=paths.shape))
    values[torch.as_tensor(rng.uniform(size=paths.shape) < 0.1)] = math.nan
    times = torch.as_tensor(times)
    fit = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def score(parameters, rows):
        sde, observation = ornstein_uhlenbeck(parameters)
        return sde.log_likelihood(times[rows], values[rows], observation).sum()

    maximise(lambda: score(fit, slice(0, 2000)) / 2000, fit)
    return fit.detach(), true, score, (times[2000:], values[2000:])


def test_maximum_likelihood_recovers_the_parameters(fitted):
    fit, true, score, _ = fitted
    theta, sigma = (fit[[0, 2]] - true[[0, 2]]).exp()
    assert float(theta) == pytest.approx(1, abs=0.05)
    assert float(sigma) == pytest.approx(1, abs=0.05)
    information = -torch.autograd.functional.hessian(lambda p: score(p, slice(0, 2000)), fit)
    deviation = (fit - true) @ information @ (fit - true)
    assert float(deviation) < 28.5  # chi-square with 4 degrees of freedom, false alarm 1e-5


def test_fitted_forecasts_are_as_good_as_the_true_ones(fitted):
    """Negative log-likelihood per forecast value within 0.02 nats of the exact filter's."""
    fit, true, _, (times, values) = fitted
    scores = []
    for parameters in (fit, true):
        sde, (C, R) = ornstein_uhlenbeck(parameters)
        law = sde.predict(times[:, :8], values[:, :8], times[:, 8:], (C, R))
        scores.append(-law.push(C.double(), noise=R.reshape(1, 1)).log_density(values[:, 8:]).mean())
    assert abs(float(scores[0] - scores[1])) < 0.02


def test_gradients_meet_finite_differences():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    times = torch.tensor([[0.0, 0.4, 0.4, 2.0], [0.1, 1.0, 3.0, math.nan]], dtype=torch.float64)
    values = draw(2, 4, 2)
    values[0, 1, 0], values[1, 2], values[1, 3] = math.nan, math.nan, math.nan
    A, b, L, C, root = -torch.eye(2) + 0.3 * draw(2, 2), draw(2), draw(2, 2), draw(2, 2), draw(2, 2)
    inputs = [x.requires_grad_() for x in (A, b, L, C, root)]

    def everything(A, b, L, C, root):
        sde, observation = nsde.LinearSDE(A, b, L), (C, root @ root.T)
        law = sde.predict(times, values, [0.2, 4.0], observation)
        return sde.log_likelihood(times, values, observation), law.mean, law.covariance

    assert torch.autograd.gradcheck(everything, inputs)


def test_gradients_of_start_and_values():
    sde, observation = nsde.LinearSDE([[-0.5, 0.2], [0.1, -1.0]]), ([[1.0, -1.0]], 0.3)
    mean, values = torch.zeros(2, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    inputs = (
        mean.requires_grad_(),
        torch.eye(2, dtype=torch.float64).requires_grad_(),
        values.requires_grad_(),
    )

    def score(mean, root, values):
        initial = mean, root @ root.T
        return sde.log_likelihood([0.0, 0.3, 1.0], values, observation, initial=initial)

    assert torch.autograd.gradcheck(score, inputs)


def test_the_gradient_in_a_stiff_state():
    """dlogL / d rate of a mode that is 800 times faster than the data, against a central difference."""

    def score(rate):
        A = torch.diag(torch.stack([torch.tensor(-0.5, dtype=torch.float64), -rate]))
        sde = nsde.LinearSDE(A, L=[[0.6, 0.0], [0.0, 30.0]])
        return sde.log_likelihood([0.0, 0.7, 1.1, 5.0], [[0.1], [1.0], [-0.3], [0.4]], ([[1.0, 1.0]], 0.1))

    rates = torch.tensor([799.5, 800.0, 800.5], dtype=torch.float64)
    middle = rates[1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(middle), middle)
    assert float(gradient) == pytest.approx(float(score(rates[2]) - score(rates[0])), rel=1e-6)
