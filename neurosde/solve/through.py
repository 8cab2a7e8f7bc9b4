"""Many steps as one program of a single step, for solves of which only the ends of long runs are wanted."""

from typing import NamedTuple

from neurosde.noise import StepDraws
from neurosde.solve.compiling import while_loop
from neurosde.solve.looking import look
from neurosde.solve.march import Block, Model, State, advance, state_of
from neurosde.typing import Tensor


class Table(NamedTuple):
    """Steps from number ``start`` on, with their noise among them or with the way to draw it."""

    start: Tensor
    block: Block
    draws: StepDraws | None = None


def march_through(model: Model, table: Table, begin: Tensor, end: Tensor, state: State) -> State:
    """Take the steps ``begin`` to ``end`` of a table in a loop that the compiler sees as one.

    One step is compiled for any number of them; what lies between the ends is not kept, and has no gradient.
    The fields are looked at while the compiler reads this, and that costs nothing when the program runs.
    """
    look(model.sde, table.block.t[0], state.y)
    changes = [True, bool(model.running), bool(model.running), model.penalty is not None]
    changes += [True] * len(state.carry)
    fixed, draws = state.flat(), table.draws
    heads = None if draws is None else draws.heads()
    key = () if draws is None or heads is None else (draws.key(heads, begin),)

    def whole(parts: tuple[Tensor, ...]) -> State:
        moving = iter(parts)
        return state_of(tuple(next(moving) if on else part for on, part in zip(changes, fixed, strict=True)))

    def going(i: Tensor, *parts: Tensor) -> Tensor:
        return i < end

    def body(i: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        step, new_key = table.block.step_at((i - table.start).reshape(1)), ()
        if draws is not None and heads is not None:
            step = step._replace(noise=draws.increment(parts[0], step.h, state.y.dtype))
            new_key = (draws.key(heads, i + 1),)  # handed on, so that it is made once for all channels
        after = advance(model, step, whole(parts[len(new_key) :])).flat()
        return (i + 1, *new_key, *(part.contiguous() for on, part in zip(changes, after, strict=True) if on))

    moving = tuple(part.clone() for on, part in zip(changes, fixed, strict=True) if on)  # none may be another
    return whole(while_loop(going, body, (begin, *key, *moving))[1 + len(key) :])
