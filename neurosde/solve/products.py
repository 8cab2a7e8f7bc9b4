"""Leaner matrix products for compiled steps on a processor: what nobody reads is not multiplied.

A field that appends the time to the states, as most do, has products of one column too many on the way back,
and odd widths are what a processor's kernels are slowest at: 17 columns cost half as much again as 16.
"""

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from neurosde.typing import Any

_LANES = 16  # columns that a kernel takes at once
_aten = torch.ops.aten


class LeanProducts(CustomGraphPass):
    """Narrows products of which some columns alone are read, and turns gradients of odd width around."""

    def __call__(self, graph: Graph) -> None:
        """Rewrite the graph in place."""
        for node in list(graph.find_nodes(op="call_function", target=_aten.mm.default)):
            _narrow(graph, node)
        for node in list(graph.find_nodes(op="call_function", target=_aten.mm.default)):
            _turn(graph, node)

    def uuid(self) -> Any:
        """What the compiler's cache of programs tells this pass by."""
        return get_hash_for_files((__file__,))


def _narrow(graph: Graph, node: Node) -> None:
    """``(a @ b)[:, i:j]``, where nothing else is read, is ``a @ b[:, i:j]``."""
    users = list(node.users)
    if len(users) != 1 or users[0].target is not _aten.slice.Tensor:
        return
    part = users[0]
    if len(part.args) < 2 or part.args[1] not in (1, -1):
        return
    with graph.inserting_before(node):
        columns = _call(graph, _aten.slice.Tensor, node.args[1], *part.args[1:])
        product = _call(graph, _aten.mm.default, node.args[0], columns)
    part.replace_all_uses_with(product)
    graph.erase_node(part)
    graph.erase_node(node)


def _turn(graph: Graph, node: Node) -> None:
    """``a' @ b`` is ``(b' @ a)'``: a weight's gradient, whose rows fill a kernel where its columns do not."""
    left, right = node.args
    n_rows, n_columns = node.meta["val"].shape
    if not isinstance(left, Node) or left.target is not _aten.permute.default:
        return
    if not isinstance(n_rows, int) or not isinstance(n_columns, int):
        return
    if n_rows % _LANES or not n_columns % _LANES:
        return
    with graph.inserting_before(node):
        turned = (_call(graph, _aten.permute.default, factor, [1, 0]) for factor in (right, left))
        product = _call(graph, _aten.mm.default, *turned)
        back = _call(graph, _aten.permute.default, product, [1, 0])
    node.replace_all_uses_with(back)
    graph.erase_node(node)


def _call(graph: Graph, target: Any, *arguments: Any) -> Node:
    """A new node, with the shape that the compiler looks for."""
    new = graph.call_function(target, arguments)
    with new.all_input_nodes[0].meta["val"].fake_mode:
        new.meta["val"] = target(*torch.fx.map_arg(arguments, lambda node: node.meta["val"]))
    return new
