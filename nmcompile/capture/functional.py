"""An ExportedProgram -> a functional ATen graph: nothing written in place, nothing checked."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from nmcompile.errors import NmcompileError

aten = torch.ops.aten

_CHECKS = ("assert", "sym_constrain", "_guards_fn")
_TRAINING: dict[Any, int] = {
    aten.batch_norm.default: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
}
_RESHAPES = {
    aten.view.default, aten.reshape.default, aten.expand.default, aten._unsafe_view.default,
}  # fmt: skip
_SCATTERS: dict[Any, Any] = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
}


def functional(exported: ExportedProgram) -> fx.GraphModule:
    """The graph without writes in place and size checks; its output is one plain tensor.

    The checks go because the runtime knows the sizes and refuses others with better words.

    Raises:
        NmcompileError: the archive was exported in training mode, or has several outputs.
    """
    module = exported.module(check_guards=False)
    if not _write_elsewhere(module.graph):
        module = exported.run_decompositions({}).module(check_guards=False)
    graph = module.graph
    for node in reversed(list(graph.nodes)):
        if any(word in str(node.target) for word in _CHECKS) and not node.users:
            graph.erase_node(node)
    for node in list(graph.nodes):
        _refuse_training(node)
        if node.target is aten.batch_norm.default:
            _settle_batch_norm(graph, node)
        elif node.target in (aten.split.Tensor, aten.chunk.default):
            _slice_instead(graph, node)
    _return_tensor(graph)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _write_elsewhere(graph: fx.Graph) -> bool:
    """Turns `relu_` into `relu`, `x[a:b] = y` into a new x; False where that may not be enough."""
    for node in list(graph.nodes):
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return False  # a region with a graph of its own, such as torch.no_grad()
        if not _writes(node):
            continue
        plain, cuts = _plain_twin(node.target), _cuts(node.args[0])
        base = cuts[0].args[0] if cuts else node.args[0]
        if plain is None or not _is_fresh(base) or _seen_through(base, node, cuts):
            return False
        if cuts and any(_writes(user) and user.args[0] is node for user in node.users):
            return False
        node.target = plain
        value = node
        for cut in reversed(cuts):
            with graph.inserting_after(value):
                arguments = (cut.args[0], value, *cut.args[1:])
                value = graph.call_function(_SCATTERS[cut.target], arguments)
            value.meta["val"] = cut.args[0].meta["val"]
        base.replace_all_uses_with(value, delete_user_cb=value.__lt__)
    return True


def _cuts(written: Any) -> list[Any]:
    """The slices, outermost first, through which a value is written."""
    cuts: list[Any] = []
    while written.target in _SCATTERS and not written.kwargs:
        cuts.insert(0, written)
        written = written.args[0]
    return cuts


def _seen_through(value: fx.Node, node: fx.Node, cuts: list[Any]) -> bool:
    """Whether a view taken before the write `node` is used after it."""
    for view in value.users:
        if view < node and _is_view(view):
            late = any(node < user for user in view.users)
            if late or _seen_through(view, node, cuts):
                return True
    return False


def _writes(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and bool(target._schema.is_mutable)


def _plain_twin(target: Any) -> Any:
    """The operator that computes the same and writes nothing."""
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None)


def _is_fresh(node: fx.Node) -> bool:
    """Whether the value is the operator's own memory, no input's, weight's or view's."""
    return node.op == "call_function" and not _is_view(node)


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op != "output"
    returns = node.target._schema.returns
    return not _writes(node) and any(item.alias_info is not None for item in returns)


def random_operation(module: fx.GraphModule) -> str:
    """An operation that draws random numbers, or "" if there is none."""
    drawing = (
        node.target
        for node in module.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        and node.target not in _TRAINING
    )
    return str(next(drawing, ""))


def settled(size: Any) -> int | None:
    """The number that a dimension is tied to, None if it is free."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else None


def example_size(size: Any) -> int:
    """The number that a dimension has in this trace."""
    return size if isinstance(size, int) else int(size.node.hint)


def free_batch(module: fx.GraphModule, batch: int) -> None:
    """Makes reshapes that name the batch they were traced for take any.

    A number that merely equals the batch is taken for it, so the caller has to compare results.
    """
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    with module.graph.inserting_after(image):
        count = module.graph.call_function(aten.sym_size.int, (image, 0))
    count.meta["val"] = batch
    moving = {image}
    for node in module.graph.nodes:
        if moving.isdisjoint(node.all_input_nodes) or node is count:
            continue
        moving.add(node)
        if node.target is operator.mul and batch > 1:
            node.args = tuple(count if item is batch else item for item in node.args)
        elif node.target in _RESHAPES and _names_batch(node, batch):
            node.args = (node.args[0], [count, *node.args[1][1:]])
    module.graph.eliminate_dead_code()
    module.recompile()


def _names_batch(node: fx.Node, batch: int) -> bool:
    source, sizes = node.args[:2]
    first = sizes[0] if isinstance(sizes, (list, tuple)) and sizes else None
    alike = isinstance(source, fx.Node) and source.meta["val"].shape[0] == batch
    return bool(first == batch and (alike or batch > 1))


def _refuse_training(node: fx.Node) -> None:
    place = _TRAINING.get(node.target)
    if place is not None and len(node.args) > place and node.args[place] is True:
        raise NmcompileError(
            f"the network was exported in training mode ({node.target}); call model.eval() "
            "before torch.export.export"
        )


def _settle_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """The form that it has once torch.export has decomposed it, which passes know."""
    x, weight, bias, mean, variance, _, momentum, epsilon, *_ = node.args
    with graph.inserting_before(node):
        norm = graph.call_function(
            aten._native_batch_norm_legit_no_training.default,
            (x, weight, bias, mean, variance, momentum, epsilon),
        )
        value = graph.call_function(operator.getitem, (norm, 0))
    empty = torch.empty(0)
    norm.meta["val"] = (node.meta["val"], empty, empty)
    value.meta = dict(node.meta)
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _slice_instead(graph: fx.Graph, node: fx.Node) -> None:
    """Parts whose size comes from the image's are cut out one by one: ONNX cannot split so."""
    arguments: tuple[Any, ...] = node.args
    source, sizes, axis = (*arguments, 0)[:3]
    length = source.meta["val"].shape[axis]
    parts = [user for user in node.users if user.target is operator.getitem]
    if settled(length) is not None or len(parts) < len(node.users):
        return
    with graph.inserting_before(node):
        step = sizes
        if node.target is aten.chunk.default:
            whole = _sized(graph, aten.sym_size.int, (source, axis), length)
            more = _sized(graph, operator.add, (whole, sizes - 1), length + (sizes - 1))
            rounded = (length + (sizes - 1)) // sizes
            step = _sized(graph, operator.floordiv, (more, sizes), rounded)
        for part in parts:
            index: Any = part.args[1]
            ends = [_times(graph, step, factor) for factor in (index, index + 1)]
            cut = graph.call_function(aten.slice.Tensor, (source, axis, *ends))
            cut.meta = dict(part.meta)
            part.replace_all_uses_with(cut)
    for part in parts:
        graph.erase_node(part)
    graph.erase_node(node)


def _times(graph: fx.Graph, step: Any, factor: int) -> Any:
    if factor == 0 or isinstance(step, int):
        return factor and step * factor
    return _sized(graph, operator.mul, (step, factor), step.meta["val"] * factor)


def _sized(graph: fx.Graph, target: Any, arguments: tuple[Any, ...], value: Any) -> fx.Node:
    node = graph.call_function(target, arguments)
    node.meta["val"] = value
    return node


def _return_tensor(graph: fx.Graph) -> None:
    """Output (y,) -> y, and a forward that takes and gives tensors as they are."""
    output = next(node for node in graph.nodes if node.op == "output")
    found = output.args[0]
    items = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(items) != 1 or not isinstance(items[0], fx.Node):
        raise NmcompileError(
            f"the network gives {len(items)} outputs; expected one image: wrap it in a module "
            "that returns that image alone"
        )
    output.args = (items[0],)
    graph.set_codegen(fx.graph.CodeGen())
