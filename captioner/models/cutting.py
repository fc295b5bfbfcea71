"""Cutting a network in two, so that what its frozen part gives can be kept and the rest alone be run again."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.shape_prop import ShapeProp

from captioner.models.inference import CONVOLUTIONS, Tracer


def cut(network: nn.Module, trained: Collection[str], size: int) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Cut a network in two parts, one after the other, with all that is trained in the second.

    The cut is where one map alone goes from part to part: the last such place before what is trained, moved back over
    the convolutions that widen the map, as at the beginning of a block.

    Parameters
    ----------
    network : Module
        From pixels (B, 3, S, S) to a feature map (B, D, rows, columns).
    trained : collection of str
        Names of the parameters that are trained.
    size : int
        S, in pixels.

    Returns
    -------
    first, second : GraphModule
        Made of the network's own modules; None if there is no such place, or what follows what cannot be known.
    """
    try:
        graph = Tracer().trace(network)
        sizes = _map_sizes(network, graph, size)
    # A network may be any Python code, over which tracing stumbles in as many ways.
    except Exception:
        return None
    nodes = list(graph.nodes)
    begin = next((n for n, node in enumerate(nodes) if not _parameters(network, node).isdisjoint(trained)), 0)
    place = {node: n for n, node in enumerate(nodes)}
    last_use = [max((place[user] for user in node.users), default=n) for n, node in enumerate(nodes)]
    # Not the first, which is the pixels.
    alone = [n for n in range(1, begin) if sizes[n] and [m for m in range(n + 1) if last_use[m] > n] == [n]]
    if not alone:
        return None
    chosen = alone.pop()
    for n in reversed(alone):
        if any(_is_convolution(network, user) for user in nodes[n].users):
            if sizes[n] >= sizes[chosen]:
                break
            chosen = n
    return _part(network, nodes[: chosen + 1]), _part(network, nodes[chosen:])


def _parameters(network: nn.Module, node: fx.Node) -> set[str]:
    if node.op == "call_module":
        module = network.get_submodule(cast(str, node.target))
        return {f"{node.target}.{name}" for name, _ in module.named_parameters()}
    return {cast(str, node.target)} if node.op == "get_attr" else set()


def _is_convolution(network: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(cast(str, node.target)), CONVOLUTIONS)


def _map_sizes(network: nn.Module, graph: fx.Graph, size: int) -> list[int]:
    """Count the numbers of every node's value for one photo, without computing any; 0 where it is no square map."""
    device = next(network.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        ShapeProp(fx.GraphModule(network, graph)).propagate(torch.zeros(1, 3, size, size, device=device))
    shapes: list[Sequence[int]] = [getattr(node.meta.get("tensor_meta"), "shape", ()) for node in graph.nodes]
    return [math.prod(shape) if len(shape) == 4 and shape[2] == shape[3] else 0 for shape in shapes]


def _part(network: nn.Module, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """Make a module of consecutive nodes, whose input is the value of the first and whose output that of the last."""
    graph = fx.Graph()
    copies = {nodes[0]: graph.placeholder("x")}
    for node in nodes[1:]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if nodes[-1].op != "output":
        graph.output(copies[nodes[-1]])
    return fx.GraphModule(network, graph)
