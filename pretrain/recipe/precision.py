"""`precision: auto`: bf16 where the hardware computes in it, else fp32. The first start of a run decides.

Its recipe file then holds the choice, and the run keeps it on any machine.
"""

from pretrain.launch.bf16 import computes_in_bf16
from pretrain.recipe.schema import Precision, Recipe


def with_precision(recipe: Recipe, held: Recipe | None = None) -> Recipe:
    """The recipe with what `auto` stands for: the precision of the run it resumes (`held`), else this machine's."""
    if recipe.precision != "auto":
        return recipe
    kept = held.precision if held is not None else "auto"
    return recipe.model_copy(update={"precision": of_this_machine() if kept == "auto" else kept})


def of_this_machine() -> Precision:
    return "bf16" if computes_in_bf16() else "fp32"


def precision_in_words(asked: Recipe, chosen: Recipe) -> str | None:
    """What `auto` has become in `chosen`, and why; None where the recipe names a precision."""
    if asked.precision != "auto":
        return None
    ours = of_this_machine()
    if chosen.precision != ours:
        return f"precision {chosen.precision}, as the run was begun; on this machine auto would choose {ours}"
    does = "computes in bf16" if ours == "bf16" else "does not compute in bf16"
    return f"precision auto: {ours}, since this machine {does}"
