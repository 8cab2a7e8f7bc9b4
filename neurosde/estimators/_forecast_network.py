"""The learned correction of a baseline: a latent stable SDE, read out at the entries asked for."""

import dataclasses
import math
from typing import NamedTuple, cast

import torch
from torch import nn

from neurosde.cells import LangevinCell
from neurosde.estimators._forecast_samples import SUMMARIES, Batch, Samples
from neurosde.nets import MLP, affine
from neurosde.noise import AbstractNoise, BrownianPath, StepNoise, chain, normal
from neurosde.scores import crps_mixture
from neurosde.solve import ExponentialEuler, ExponentialShARK, StepPenalty, solve
from neurosde.training import Objective, Penalised
from neurosde.typing import Array, Tensor

__all__ = ["CorrectionNetwork", "CorrectionObjective", "Mixture"]

_SD_FLOOR = 1e-2
_CLIP = 20.0  # a target further off than so many residual scales says no more than "far off"
_SCORED_ROWS = 1 << 15  # rows that are scored at a time
_STEPS = 8  # steps of the latent path in a horizon, at least


class Mixture(NamedTuple):
    """Gaussian mixture for each path and row, ``(path, row, component)``, in units of the residuals."""

    mean: Tensor
    sd: Tensor
    weight: Tensor

    def expectation(self) -> Tensor:
        """Mean over components and paths, ``(row,)``."""
        return (self.weight * self.mean).sum(-1).mean(0)

    def stretched(self, factor: Tensor) -> "Mixture":
        """The same mean of each path, every deviation from it times ``factor`` (row,)."""
        centre, factor = (self.weight * self.mean).sum(-1, keepdim=True), factor.unsqueeze(-1)
        return Mixture(centre + factor * (self.mean - centre), factor * self.sd, self.weight)

    def quantile(self, level: float, n_halvings: int = 32) -> Tensor:
        """Quantile of the mixture over components and paths, ``(row,)``, by bisection of its distribution."""
        lower = (self.mean - 9.0 * self.sd).amin((0, -1))
        upper = (self.mean + 9.0 * self.sd).amax((0, -1))
        for _ in range(n_halvings):
            middle = 0.5 * (lower + upper)
            below = (self.weight * torch.special.ndtr((middle.unsqueeze(-1) - self.mean) / self.sd)).sum(-1)
            left = below.mean(0) < level
            lower, upper = torch.where(left, middle, lower), torch.where(left, upper, middle)
        return 0.5 * (lower + upper)

    def draw(self, seed: int, *fields: Tensor) -> Tensor:
        """One draw from each path's mixture, keyed by ``fields`` that broadcast to (path, row)."""
        pick = torch.special.ndtr(normal(seed, *fields, 0)).unsqueeze(-1)
        chosen = (pick > self.weight.cumsum(-1)).sum(-1, keepdim=True).clamp(max=self.weight.shape[-1] - 1)
        mean, sd = (part.gather(-1, chosen).squeeze(-1) for part in (self.mean, self.sd))
        return mean + sd * normal(seed, *fields, 1)

    def crps(self, target: Tensor) -> Tensor:
        """Fair CRPS of each row: closed form in the components, unbiased in the paths."""
        return crps_mixture(target, *self, average="none")

    def nll(self, target: Tensor) -> Tensor:
        """Negative log-likelihood of each row under the mixture over components and paths."""
        z = (target.unsqueeze(-1) - self.mean) / self.sd
        log_density = self.weight.log() - self.sd.log() - 0.5 * (z.square() + math.log(2 * math.pi))
        return math.log(len(self.mean)) - log_density.logsumexp(-1).logsumexp(0)


class CorrectionNetwork(nn.Module):
    """Encoder, latent Langevin SDE and head of the forecaster.

    A token for each channel from its summaries, with weights of its own; all tokens and the covariates give
    the patient's vector p, which sets the initial state ``z(0) = A p`` and the control of the latent SDE and
    flows back into the tokens. The entry (t, channel) is read from the token of its channel, ``z(t)``, the
    time ahead and the baseline. The head's last layer starts at zero, so that training starts at the
    baseline with the spread of its residuals.

    Parameters
    ----------
    n_channels, n_static
        Number of channels and of covariates.
    state_size
        Number of latent states, also of control channels.
    hidden
        Width of tokens and head.
    n_components
        Components of the Gaussian mixture at each entry.
    kappa, contraction
        Of the `LangevinCell`, per horizon.
    dropout
        Rate, in training only; its masks come from the seed of the call.
    embedded
        Solve with a stepper that estimates its error, which a penalty on the steps needs.
    generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_channels: int,
        n_static: int,
        *,
        state_size: int,
        hidden: int,
        n_components: int,
        kappa: float,
        contraction: float,
        dropout: float,
        embedded: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        self.n_components, self.dropout, self.embedded = n_components, dropout, embedded

        def layer(a: int, b: int, scale: float = 1.0) -> nn.Linear:
            return affine(a, b, generator, scale)

        own = [layer(len(SUMMARIES), hidden, math.sqrt(3.0)) for _ in range(n_channels)]
        self.own_weight = nn.Parameter(torch.stack([each.weight.detach() for each in own]))
        self.own_bias = nn.Parameter(torch.stack([each.bias.detach() for each in own]))
        self.token = layer(hidden, hidden)
        self.narrow = layer(hidden, 8)
        self.pool = MLP(
            8 * n_channels + n_static, 2 * hidden, 2 * hidden, 1, activation="silu", generator=generator
        )
        self.start = layer(2 * hidden, state_size)
        self.control = layer(2 * hidden, state_size)
        self.cell = LangevinCell(
            state_size,
            state_size,
            hidden=2 * state_size,
            depth=1,
            kappa=kappa,
            contraction=contraction,
            generator=generator,
        )
        self.back = layer(2 * hidden, hidden)
        self.mixed = layer(hidden, hidden)
        self.to_head = layer(hidden, hidden)
        self.state_to_head = layer(state_size, hidden)
        self.entry_to_head = layer(4, hidden)
        self.head = layer(hidden, hidden)
        self.out_weight = nn.Parameter(torch.zeros(n_channels, 3 * n_components, hidden))
        spread = torch.linspace(-0.5, 0.5, n_components) if n_components > 1 else torch.zeros(1)
        sd = (1.0 - spread.square().mean()).sqrt() - _SD_FLOOR  # the mixture has mean 0 and variance 1
        bias = torch.cat([spread, sd.expm1().log().expand_as(spread), torch.zeros_like(spread)])
        self.out_bias = nn.Parameter(bias.repeat(n_channels, 1))

    def forward(self, batch: Batch, paths: Tensor, seed: int) -> Mixture:
        """Mixtures of the entries of a batch, one for each path.

        Parameters
        ----------
        batch
            What is known and what is asked for.
        paths
            (path,) int64 numbers of the paths to follow; path k of a series is the same in any batch.
        seed
            Of the noise, and in training of the dropout.
        """
        return self.penalised(batch, paths, seed, None)[0]

    def penalised(
        self, batch: Batch, paths: Tensor, seed: int, penalty: StepPenalty | None
    ) -> tuple[Mixture, Tensor | None]:
        """Do what `forward` does, and measure the effort of its solve."""
        drop = _Dropout(self.dropout if self.training else 0.0, seed, batch.summaries.device)
        tokens = torch.einsum("bcf,chf->bch", batch.summaries, self.own_weight) + self.own_bias
        tokens = nn.functional.silu(tokens)
        tokens = tokens + nn.functional.silu(self.token(tokens))
        known = torch.cat([self.narrow(tokens).flatten(1), batch.static], dim=1)
        patient = drop(nn.functional.silu(self.pool(drop(known))))
        tokens = tokens + nn.functional.silu(self.mixed(tokens) + self.back(patient).unsqueeze(1))
        tokens = self.to_head(tokens)
        states, effort = self._follow(patient, batch, paths, seed, penalty)
        time = batch.ahead.clamp(max=1.0)
        entry = torch.stack([time, torch.exp(-4 * time), torch.exp(-16 * time), batch.baseline], dim=1)
        known = tokens[batch.series, batch.channel] + self.entry_to_head(entry)
        x = nn.functional.silu(known + self.state_to_head(states)[:, batch.series, batch.step])
        x = drop(x + nn.functional.silu(self.head(x)))
        out = torch.einsum("prh,rkh->prk", x, self.out_weight[batch.channel]) + self.out_bias[batch.channel]
        mean, sd, weight = out.split(self.n_components, dim=-1)
        mixture = Mixture(mean, nn.functional.softplus(sd) + _SD_FLOOR, torch.softmax(weight, dim=-1))
        return mixture, effort

    def _follow(
        self, patient: Tensor, batch: Batch, paths: Tensor, seed: int, penalty: StepPenalty | None
    ) -> tuple[Tensor, Tensor | None]:
        """States of the latent SDE at the instants of each series, ``(path, series, time, state)``."""
        n_paths, n_series = len(paths), len(patient)
        y0 = self.start(patient).repeat(n_paths, 1)
        sde = self.cell.with_control(self.control(patient).repeat(n_paths, 1))
        times = batch.times.repeat(n_paths, 1)
        if times.shape[1] == 1:
            return y0.view(n_paths, n_series, 1, -1), None if penalty is None else y0.new_zeros(())
        keys = torch.as_tensor(chain(paths.unsqueeze(1), batch.keys)).reshape(-1)
        last = times.nan_to_num(nan=0.0).amax(1)
        span = last.clamp(min=1.0)
        dt = torch.where(last > 0, torch.minimum(last, span / _STEPS), span / _STEPS)
        shape, levy = (len(y0), y0.shape[1]), ExponentialEuler.levy  # both steppers ask for the same
        noise: AbstractNoise
        if self.training:
            noise = StepNoise(shape, seed=seed, levy=levy, series=keys, dtype=y0.dtype, device=y0.device)
        else:  # one path whatever else is asked for: its end is a power of two of the horizon
            end = torch.exp2(torch.ceil(torch.log2(span)))
            start = torch.zeros_like(end)
            noise = BrownianPath(
                start, end, shape, seed=seed, levy=levy, series=keys, dtype=y0.dtype, device=y0.device
            )
        stepper = ExponentialShARK() if self.embedded else ExponentialEuler()
        if penalty is not None:  # the sampled step is a function of the seed, as all noise is
            own = 0 if penalty.seed is None else penalty.seed
            penalty = dataclasses.replace(penalty, seed=int(chain(seed, own)) % 2**63)
        solution = solve(sde, y0, times, stepper=stepper, noise=noise, dt=dt, penalty=penalty)
        solution.raise_if_failed()
        states = solution.ys.masked_fill(times.isnan().unsqueeze(-1), 0.0)  # no row asks for the padding
        return states.view(n_paths, n_series, times.shape[1], -1), solution.penalty


class _Dropout:
    """Masks drawn from one seed, one after the other; nothing at rate 0."""

    def __init__(self, rate: float, seed: int, device: torch.device):
        self.rate = rate
        self.generator = torch.Generator(device).manual_seed(seed) if rate else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.generator is None:
            return x
        uniform = torch.rand(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)
        return x * (uniform >= self.rate) / (1.0 - self.rate)


class CorrectionObjective(Objective):
    """Mean loss of the corrected forecasts over entries, each channel with its weight.

    Parameters
    ----------
    samples
        All samples, held-back ones too.
    weights
        (channel,) weight of an entry.
    nominal
        (sample,) whether the sample is cut where forecasts will be made; the others serve training alone.
    loss
        "crps", "nll" or "mse".
    device
        Where the network is.
    penalty
        On the steps of the latent SDE in training; the network is then an embedded one.
    """

    def __init__(
        self,
        samples: Samples,
        weights: Array,
        nominal: Array,
        loss: str,
        device: torch.device,
        penalty: StepPenalty | None = None,
    ):
        self.samples, self.nominal, self.kind, self.device = samples, nominal, loss, device
        self.penalty = penalty
        self.weights = torch.from_numpy(weights.astype("float32")).to(device)
        self.n_samples = len(samples)

    def loss(self, module: nn.Module, index: Tensor, seed: int) -> Tensor | Penalised:
        """Mean loss with two latent paths, the fewest that tell their spread; the penalty of their steps."""
        losses, effort = self._losses(module, index.numpy(), 2, seed, self.samples, self.penalty)
        return losses.mean() if effort is None else Penalised(losses.mean(), effort)

    def score(self, module: nn.Module, index: Tensor) -> float:
        """Mean loss of the nominal samples with four paths and fixed noise."""
        held = self.samples.take(index.numpy()[self.nominal[index.numpy()]])
        if not len(held):
            return math.nan
        parts = [self._losses(module, chunk, 4, 0, held)[0] for chunk in held.chunks(_SCORED_ROWS)]
        return torch.cat(parts).mean().item()

    def _losses(
        self,
        module: nn.Module,
        index: Array,
        n_paths: int,
        seed: int,
        samples: Samples,
        penalty: StepPenalty | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        batch = samples.batch(index).to(self.device)
        network = cast(CorrectionNetwork, module)
        mixture, effort = network.penalised(batch, torch.arange(n_paths, device=self.device), seed, penalty)
        target = batch.target.clamp(-_CLIP, _CLIP)
        if self.kind == "crps":
            losses = mixture.crps(target)
        elif self.kind == "nll":
            losses = mixture.nll(target)
        else:
            losses = (target - mixture.expectation()).square()
        return self.weights[batch.channel] * losses, effort
