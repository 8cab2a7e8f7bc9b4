"""All that the graphs of compiled steps are rewritten by on a processor."""

from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph

from neurosde.solve.products import LeanProducts
from neurosde.solve.tangent import QuickTangent
from neurosde.typing import Any


class Rewrites(CustomGraphPass):
    """One pass after the other, for the compiler takes one."""

    passes = (QuickTangent(), LeanProducts())

    def __call__(self, graph: Graph) -> None:
        """Rewrite the graph in place."""
        for one in self.passes:
            one(graph)

    def uuid(self) -> Any:
        """What the compiler's cache of programs tells this pass by."""
        return [one.uuid() for one in self.passes]
