"""Move parameters against their gradients, and keep the average of where they have been.

Matrices move as Muon moves them, by their momentum made orthogonal (five Newton-Schulz iterations),
so that all of its directions count alike; this learns several times faster here than Adam does,
which moves the rest.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

WARM_UP = 40  # steps until the full rate
MOMENTUM = 0.95
BETAS = (0.9, 0.98)
TINY = 1e-8
LONGEST_GRADIENT = 1.0
# Of the polynomial that brings singular values of 0.01 to 1 near to 1 in five turns: steep at the
# start, and never leaving 0.7 to 1.2 once there.
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_TURNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast matrices and the rest move, and how slowly the average follows them."""

    matrices: float
    rest: float
    slowing: float  # the fraction of the time, at the end, over which rates fall to nothing
    average: float  # what the average keeps of itself in a step

    def at(self, step: int, fraction: float) -> float:
        """Tell how much of the rates holds at a step, so much of the time having passed."""
        return min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.0, 1 - fraction) / self.slowing)


class Learner:
    """The parameters of some models while they learn; all of it can be saved and gone on from."""

    def __init__(
        self, parts: Mapping[str, nn.Module], rates: Rates, *, gently: Collection[str] = ()
    ) -> None:
        """Learn all parts; in those named `gently`, matrices move as the rest does."""
        self.rates = rates
        self._gently = tuple(f"{part}." for part in gently)
        self.step = 0
        self.whole = True  # not while a step is being taken
        self._parameters = {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
        }
        self._matrices = [name for name in self._parameters if self._is_matrix(name)]
        self._matrices.sort(key=self._flat_shape)
        self._rest = [name for name in self._parameters if name not in set(self._matrices)]
        self._momentum = {name: torch.zeros_like(each) for name, each in self._parameters.items()}
        self._squares = {name: torch.zeros_like(self._parameters[name]) for name in self._rest}
        self._average = {name: each.detach().clone() for name, each in self._parameters.items()}

    def learn(self, fraction: float) -> None:
        """Take a step after a backward pass, so much of the time having passed."""
        nn.utils.clip_grad_norm_(self._parameters.values(), LONGEST_GRADIENT)
        rate = self.rates.at(self.step, fraction)
        self.whole = False
        with torch.no_grad():
            self._move_matrices(rate * self.rates.matrices)
            self._move_rest(rate * self.rates.rest)
            kept = min(self.rates.average, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(
                list(self._average.values()), list(self._parameters.values()), 1 - kept
            )
        for parameter in self._parameters.values():
            parameter.grad = None
        self.step += 1
        self.whole = True

    def saved(self) -> dict[str, torch.Tensor]:
        """Everything to go on from, by name."""
        return {f"{kind} {name}": each for kind, name, each in self._state()}

    def restore(self, saved: Mapping[str, torch.Tensor], *, step: int) -> None:
        """Go on from what was saved after so many steps."""
        with torch.no_grad():
            for kind, name, each in self._state():
                each.copy_(saved[f"{kind} {name}"])
        self.step = step

    def averaged(self, part: str) -> dict[str, torch.Tensor]:
        """The averages of one part's parameters, under their names there."""
        start = f"{part}."
        return {
            name.removeprefix(start): each
            for name, each in self._average.items()
            if name.startswith(start)
        }

    def _state(self) -> Iterable[tuple[str, str, torch.Tensor]]:
        kinds = {"now": self._parameters, "moving": self._momentum, "squares": self._squares}
        for kind, tensors in {**kinds, "average": self._average}.items():
            for name, each in tensors.items():
                yield kind, name, each.detach()

    def _is_matrix(self, name: str) -> bool:
        outer = ("embed", "conv_in", "conv_out")
        ends = any(word in name for word in outer) or name.endswith("transformer.proj_out.weight")
        gently = name.startswith(self._gently)
        return self._parameters[name].ndim > 1 and not ends and not gently

    def _flat_shape(self, name: str) -> tuple[int, int]:
        rows, *others = self._parameters[name].shape
        return rows, int(torch.Size(others).numel())

    def _move_matrices(self, rate: float) -> None:
        for (rows, columns), names in groupby(self._matrices, key=self._flat_shape):
            together = list(names)
            gradients = [_gradient(self._parameters[name]) for name in together]
            momentum = [self._momentum[name] for name in together]
            torch._foreach_lerp_(momentum, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momentum, MOMENTUM)
            turned = _orthogonal(torch.stack([each.reshape(rows, columns) for each in ahead]))
            scale = rate * max(1.0, rows / columns) ** 0.5
            for name, each in zip(together, turned, strict=True):
                parameter = self._parameters[name]
                parameter.sub_(each.reshape(parameter.shape).to(parameter.dtype), alpha=scale)

    def _move_rest(self, rate: float) -> None:
        parameters = [self._parameters[name] for name in self._rest]
        gradients = [_gradient(each) for each in parameters]
        momentum = [self._momentum[name] for name in self._rest]
        squares = list(self._squares.values())
        torch._foreach_lerp_(momentum, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        roots = torch._foreach_sqrt(torch._foreach_div(squares, 1 - BETAS[1] ** (self.step + 1)))
        torch._foreach_add_(roots, TINY)
        steps = torch._foreach_div(momentum, 1 - BETAS[0] ** (self.step + 1))
        torch._foreach_addcdiv_(parameters, steps, list(roots), -rate)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    # a part that a batch does not use, the words of no caption say, has none
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Bring all singular values of a stack of matrices near to 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    turned = matrices.mT if tall else matrices
    turned = turned / (turned.norm(dim=(1, 2), keepdim=True) + TINY)
    turned = turned.to(torch.bfloat16)
    first, third, fifth = _POLYNOMIAL
    for _ in range(_TURNS):
        square = turned @ turned.mT
        turned = first * turned + (third * square + fifth * (square @ square)) @ turned
    return turned.mT if tall else turned


def stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers between 0 and 1, one in each of so many equal parts."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def mean(losses: Sequence[float]) -> float:
    """The mean of what was lost, for the eye."""
    return sum(losses) / len(losses) if losses else float("nan")
