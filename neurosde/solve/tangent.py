"""A quick hyperbolic tangent for compiled steps on a processor, where torch's own costs five sigmoids."""

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from neurosde.typing import Any

# tanh(x) = x P(x^2) / Q(x^2) on [-7.9, 7.9], fitted by iterated least squares to a relative error of 6e-9;
# evaluated in float32 the error is below 3.4e-7, three units in the last place
_END = 7.9
_P = (0.9999999943566894, 0.1345062815038926, 0.003579001067105624, 2.2023396568980388e-05)
_P += (1.5428190488440224e-08,)
_Q = (1.0, 0.4678395615331412, 0.026192272225772837, 0.0003423665438436045, 8.59886736069245e-07)
_aten = torch.ops.aten


class QuickTangent(CustomGraphPass):
    """Puts a rational function in the place of each float32 tanh of a graph; gradients follow its value."""

    def __call__(self, graph: Graph) -> None:
        """Rewrite the graph in place."""
        for node in list(graph.find_nodes(op="call_function", target=_aten.tanh.default)):
            if node.meta["val"].dtype == torch.float32:
                node.replace_all_uses_with(_rational(graph, node))
                graph.erase_node(node)

    def uuid(self) -> Any:
        """What the compiler's cache of programs tells this pass by."""
        return get_hash_for_files((__file__,))


def _rational(graph: Graph, node: Node) -> Node:
    """The rational function of a tanh node's input, written before the node."""

    def call(target: Any, *arguments: Any) -> Node:
        new = graph.call_function(target, arguments)
        new.meta = dict(node.meta)  # same shape, same dtype
        return new

    def polynomial(square: Node, coefficients: tuple[float, ...]) -> Node:
        *lower, high = coefficients
        total = call(_aten.mul.Tensor, square, high)
        for coefficient in reversed(lower[1:]):
            total = call(_aten.mul.Tensor, call(_aten.add.Tensor, total, coefficient), square)
        return call(_aten.add.Tensor, total, lower[0])

    with graph.inserting_before(node):
        x = call(_aten.clamp_max.default, call(_aten.clamp_min.default, node.args[0], -_END), _END)
        square = call(_aten.mul.Tensor, x, x)
        upper = call(_aten.mul.Tensor, x, polynomial(square, _P))
        return call(_aten.div.Tensor, upper, polynomial(square, _Q))
