"""Products that are rewritten before they are compiled are the same products."""

import warnings

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


@pytest.fixture(scope="module")
def products():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's import warns of its own future
        from neurosde.solve import products
    return products


def rewritten(products, function, *inputs):
    """What the rewritten graph gives, and the shapes of its products."""
    module = make_fx(function, {aten.t.default: lambda x: x.permute(1, 0)}, "fake")(*inputs)
    module.graph.eliminate_dead_code()
    products.LeanProducts()(module.graph)
    module.graph.lint()
    module.recompile()
    nodes = module.graph.find_nodes(op="call_function", target=aten.mm.default)
    return module(*inputs), [tuple(node.meta["val"].shape) for node in nodes]


def factors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


CASES = {
    # function, shapes of its factors, shapes of the products that are left
    "first columns": (lambda a, b: (a @ b)[:, :16].sin(), ((5, 8), (8, 17)), [(5, 16)]),
    "last columns": (lambda a, b: (a @ b)[:, 1:].sin(), ((5, 8), (8, 17)), [(5, 16)]),
    "every other": (lambda a, b: (a @ b)[:, ::2].sin(), ((5, 8), (8, 17)), [(5, 9)]),
    "rows": (lambda a, b: (a @ b)[:3].sin(), ((5, 8), (8, 17)), [(5, 17)]),
    "all are read": (lambda a, b: ((a @ b)[:, :16] + (a @ b)[:, 1:]).sin(), ((5, 8), (8, 17)), [(5, 16)] * 2),
    "read twice": (lambda a, b: twice(a @ b), ((5, 8), (8, 17)), [(5, 17)]),
    "odd gradient": (lambda a, b: (a.t() @ b).sin(), ((9, 32), (9, 17)), [(17, 32)]),
    "even gradient": (lambda a, b: (a.t() @ b).sin(), ((9, 32), (9, 16)), [(32, 16)]),
    "both odd": (lambda a, b: (a.t() @ b).sin(), ((9, 31), (9, 17)), [(31, 17)]),
    "no gradient": (lambda a, b: (a @ b).sin(), ((32, 9), (9, 17)), [(32, 17)]),
}


def twice(product):
    return product[:, :16] + product[:, 1:]


@pytest.mark.parametrize("name", CASES)
def test_rewritten_products_are_the_products(products, name):
    function, shapes, left = CASES[name]
    inputs = factors(*shapes)
    value, found = rewritten(products, function, *inputs)
    assert torch.allclose(value, function(*inputs), rtol=1e-13, atol=1e-13)
    assert found == left


def test_a_field_with_time_for_a_column_has_the_same_gradient(products):
    """Against autograd's own, in float64; every product on the way back has full lanes."""

    def gradients(y, t, w, v):
        z = torch.cat((y, t.expand(len(y), 1)), -1) @ w.t()
        return torch.autograd.grad((torch.tanh(z) @ v.t()).square().sum(), (y, w, v))

    inputs = factors((7, 16), (), (32, 17), (16, 32))
    for i in (0, 2, 3):
        inputs[i].requires_grad_()
    value, found = rewritten(products, gradients, *inputs)
    for mine, theirs in zip(value, gradients(*inputs), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-13, atol=1e-13)
    assert sum(17 in shape for shape in found) == 1  # (17, 32), turned around
    assert (17, 32) in found


def test_a_pass_that_takes_other_columns_is_noticed(products, monkeypatch):
    true = products._call

    def broken(graph, target, *arguments):
        if target is aten.slice.Tensor:
            arguments = (*arguments[:2], 1, 17)  # one column late
        return true(graph, target, *arguments)

    monkeypatch.setattr(products, "_call", broken)
    function, shapes, _ = CASES["first columns"]
    inputs = factors(*shapes)
    value, _ = rewritten(products, function, *inputs)
    assert not torch.allclose(value, function(*inputs), rtol=1e-3)
