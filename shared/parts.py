"""The layers and weights of a model by name, be it a torch.nn.Module or made of layers of bare tensors as in stage 02."""

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor
from torch.nn import Module


def named_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The model itself, under the name "", and each layer within it once, by the attributes that lead to it: "layers.2"."""
    yield from _within(model, "", set())


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the model that learns, once, by the name of its layer and its own: "layers.2.weight"."""
    seen = set[int]()
    for layer_name, layer in named_layers(model):
        own = layer.named_parameters(recurse=False) if isinstance(layer, Module) else vars(layer).items()
        for name, tensor in own:
            if isinstance(tensor, Tensor) and tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{layer_name}.{name}".lstrip("."), tensor


def watchable_layers(model: Any, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
    """The layers to which a forward hook can be given, by name: all that hold no others, or those that are wanted.

    They are wanted by kind, such as "Tanh", or by name. Raises ValueError for one that is not there or takes no hook.
    """
    if isinstance(wanted, str):
        raise ValueError(f"layers is the text {wanted!r}; a list of names or kinds is expected, such as [{wanted!r}]")
    every = dict(named_layers(model))
    kinds = {type(layer).__name__ for layer in every.values()}
    for name in wanted or ():
        if name not in every and name not in kinds:
            raise ValueError(
                f"no layer has the name or kind {name!r}; the kinds are {', '.join(sorted(kinds))} and the names are "
                f"{', '.join(filter(None, every))}"
            )
    for name, layer in every.items():
        kind = type(layer).__name__
        if not any(children(layer)) if wanted is None else name in wanted or kind in wanted:
            if not hasattr(layer, "register_forward_hook"):
                raise ValueError(f"layer {name!r} is a {kind} without `register_forward_hook`, which is needed")
            yield name, layer


def children(layer: Any) -> Iterator[tuple[str, Any]]:
    """The layers that this one holds itself, by name.

    A layer of bare tensors is any object with a method `parameters`; it holds its attributes and what lies in lists of them.
    As in torch.nn, what lies in a list named `layers` is called by its number alone.
    """
    if isinstance(layer, Module):
        yield from layer.named_children()
        return
    for attribute, value in vars(layer).items():
        for path, part in _unpacked("" if attribute == "layers" and isinstance(value, (list, tuple)) else attribute, value):
            if hasattr(part, "parameters") and hasattr(part, "__dict__") and not isinstance(part, type):
                yield path, part


def _within(layer: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(layer) not in seen:
        seen.add(id(layer))
        yield name, layer
        for path, part in children(layer):
            yield from _within(part, ".".join(filter(None, (name, path))), seen)


def _unpacked(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A thing, or each thing in lists of lists, under the attribute's name and its places in the lists."""
    if isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _unpacked(f"{path}.{i}".lstrip("."), part)
    else:
        yield path, value
