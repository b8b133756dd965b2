"""One way to write each model: values of a shape that mean the same are made equal before they are checked."""

from typing import Any


def canonical(values: dict[str, Any]) -> dict[str, Any]:
    """The same shape with lists of equal widths as one number, widths rounded to their multiple, and defaults that
    follow from other fields filled in. Raises TypeError for values of the wrong types."""
    values = dict(values)
    for field in ("heads", "ffn", "sharing"):
        if isinstance(values.get(field), list):
            values[field] = tuple(values[field])
    for field in {"heads", "ffn"} & values.keys():
        values[field] = _widths(values[field], values.get(f"{field}_multiple", 1), values.get("layers"))
    if isinstance(values.get("low_rank"), dict):
        values["low_rank"] = tuple(sorted(values["low_rank"].items()))
    if values.get("embedding_size") == values.get("hidden"):
        values["embedding_size"] = None
    if values.get("norm_type") == "rms":
        values["norm_bias"] = False
    values["sharing"] = _sharing(values.get("sharing"), values.get("layers"))
    if not values.get("head_dim") and isinstance(values.get("hidden"), int) and values.get("heads"):
        widest = max(values["heads"]) if isinstance(values["heads"], tuple) else values["heads"]
        if isinstance(widest, int) and widest > 0 and values["hidden"] % widest == 0:
            values["head_dim"] = values["hidden"] // widest
    return values


def _widths(widths: Any, multiple: Any, layers: Any) -> Any:
    if isinstance(multiple, int) and multiple > 1 and widths:
        if isinstance(widths, tuple):
            widths = tuple(round_to_multiple(width, multiple) for width in widths)
        else:
            widths = round_to_multiple(widths, multiple)
    is_even = isinstance(widths, tuple) and len(widths) == layers and len(set(widths)) == 1
    return widths[0] if is_even else widths


def _sharing(sharing: Any, layers: Any) -> Any:
    """A number where a list repeats a cycle, and None where no two layers share a block."""
    if isinstance(sharing, tuple) and sharing and all(isinstance(block, int) for block in sharing):
        cycle = max(sharing) + 1
        if cycle and len(sharing) == layers and sharing == tuple(layer % cycle for layer in range(layers)):
            sharing = cycle
    if isinstance(sharing, int) and isinstance(layers, int) and sharing >= layers > 0:
        return None
    return sharing


def round_to_multiple(width: int, multiple: int) -> int:
    """The nearest multiple (halves up), at least one."""
    return max((2 * width + multiple) // (2 * multiple), 1) * multiple
