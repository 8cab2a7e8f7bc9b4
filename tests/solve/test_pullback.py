"""Blocks that are one node of the graph have the gradient of their steps, or are not taken so."""

import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError
from neurosde.noise import BrownianPath
from neurosde.solve import Heun, Milstein, StepPenalty, compiling, engine, recording
from neurosde.solve.pullback import depends_on_parameters, stand_ins


class Network(nsde.SDE):
    def __init__(self, sde_type="ito", factor=None):
        super().__init__()
        self.sde_type, self.factor = sde_type, [factor]
        self.inner, self.outer = (
            torch.nn.utils.skip_init(torch.nn.Linear, *sizes, dtype=torch.float64)
            for sizes in ((3, 8), (8, 3))
        )
        for i, p in enumerate(self.parameters()):
            torch.nn.init.constant_(p, 0.1 * (i + 1))

    def drift(self, t, y):
        f = self.outer(torch.tanh(self.inner(y))) * torch.cos(t)
        return f if self.factor[0] is None else f * self.factor[0]

    def diffusion(self, t, y):
        return 0.3 * torch.sigmoid(self.inner(y)[:, :3])


class Listed(nsde.SDE):
    """Keeps a second list of its weights, in which nobody can take their place."""

    def __init__(self):
        super().__init__()
        self.A = torch.nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3))
        self.kept = [self.A]

    def drift(self, t, y):
        return torch.tanh(y @ self.kept[0])

    def diffusion(self, t, y):
        return 0.1 * torch.ones_like(y)


class Plain(recording.Recorder):
    """Records nothing."""

    def __init__(self, kind, on):
        super().__init__(kind, False)


@pytest.fixture(autouse=True, scope="module")
def the_compiler_is_there():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own future
        import torch._dynamo
        import torch._functorch.config  # noqa: F401


@pytest.fixture
def pullers(monkeypatch):
    """Blocks are pulled back on this machine as well, as they are."""
    made = []

    def puller_of(*arguments):
        made.append(original(*arguments))
        return made[-1]

    original = engine.puller_of
    monkeypatch.setattr(engine, "puller_of", puller_of)
    monkeypatch.setattr(recording, "DEVICES", ("cpu",))
    monkeypatch.setattr("neurosde.solve.pullback.Recorder", Plain)
    monkeypatch.setattr(compiling, "_program", lambda kind, function: function)
    monkeypatch.setattr(BrownianPath, "compiled", lambda path: path)
    return made


def solved(sde, mode, **options):
    sde.zero_grad()
    y = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
    ts = options.pop("ts", [0.0, 0.37, 1.0])
    solution = nsde.solve(sde, y, ts, **{"dt": 0.02, "seed": 0, "compile": mode, **options})
    loss = solution.ys.square().sum() + sum(value.sum() for value in solution.running.values())
    (loss if solution.penalty is None else loss + solution.penalty).backward()
    return [solution.ys.detach(), y.grad, *(p.grad.clone() for p in sde.parameters())]


ENERGY = nsde.RunningCost(lambda t, y: y.square().sum(-1), h=lambda t, y: y, name="energy")
FORMS = {
    "plain": {},
    "every step": {"ts": torch.linspace(0, 1, 51)},
    "remainder": {"dt": 0.03},
    "Heun": {"sde_type": "stratonovich", "stepper": Heun()},
    "Milstein": {"stepper": Milstein()},
    "running": {"running": [ENERGY]},
    "penalty": {"sde_type": "stratonovich", "stepper": Heun(), "penalty": StepPenalty()},
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_steps(pullers, form):
    options = dict(FORMS[form])
    sde = Network(options.pop("sde_type", "ito"))
    wanted = solved(sde, "off", **options)
    assert not pullers
    got = solved(sde, "chunk", **options)
    assert pullers[0] is not None
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_tensor_that_the_sde_does_not_name_is_reached_all_the_same(pullers):
    gradients = []
    for mode in ("off", "chunk"):
        factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        solved(Network(factor=factor), mode)
        gradients.append(factor.grad)
    assert pullers == [None]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_weights_in_a_second_list_are_reached_all_the_same(pullers):
    sde = Listed()
    wanted, got = solved(sde, "off"), solved(sde, "chunk")
    assert pullers == [None]
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_noise_that_has_a_gradient_is_not_pulled(pullers):
    W = (0.1 * torch.ones(50, 5, 3, dtype=torch.float64)).requires_grad_()
    solved(Network(), "chunk", noise=W, seed=None, ts=[0.0, 1.0])
    assert pullers == [None]
    assert float(W.grad.abs().sum()) > 0


def test_parameters_come_back_after_an_error():
    sde = Network()
    before = list(sde.parameters())

    def fail():
        with stand_ins(sde, tuple(before)) as own:
            assert all(p is q for p, q in zip(sde.parameters(), own, strict=True))
            assert all(p.data_ptr() == q.data_ptr() for p, q in zip(before, own, strict=True))
            raise DataError("no")

    with pytest.raises(DataError, match="no"):
        fail()
    assert all(p is q for p, q in zip(sde.parameters(), before, strict=True))


def test_what_a_function_depends_on():
    sde, y = Network(), torch.ones(2, 3, dtype=torch.float64)
    other = torch.ones((), dtype=torch.float64, requires_grad=True)
    t = torch.zeros((), dtype=torch.float64)
    assert depends_on_parameters(sde, (y,), lambda y: (sde.drift(t, y),))
    assert depends_on_parameters(sde, (y,), lambda y: (y.detach(),))
    assert not depends_on_parameters(sde, (y,), lambda y: (sde.drift(t, y) * other,))
    assert not depends_on_parameters(sde, (y,), lambda y: (y, (2 * other).exp()))
