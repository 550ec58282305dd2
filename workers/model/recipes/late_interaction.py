"""Late interaction (`pooling: multi_vector`): the modules on tokens of such a model, in each of its layouts."""

from __future__ import annotations

from workers.config import ModelConfig, Pooling
from workers.errors import UsageError
from workers.model.files import PROJECTION, projection_shape
from workers.model.modules import ModuleSpec
from workers.model.recipes.sources import Sources


def token_modules(sources: Sources, config: ModelConfig) -> tuple[ModuleSpec, ...]:
    """The modules on tokens of a late-interaction model. Raises: UsageError: it has others, or another pooling is wanted."""
    head, shown = sources.head, sources.shown
    if config.pooling not in (Pooling.AUTO, Pooling.MULTI_VECTOR):
        raise UsageError(f"model.pooling={config.pooling}: {shown} is a late-interaction model; use auto")
    if head.pooling or head.vector_modules:
        kind = "Pooling" if head.pooling else head.vector_modules[0].kind
        raise UsageError(f"{shown}: {kind} works on one vector a text, in a late-interaction model; use a model without it")
    if not (sources.folder / "modules.json").is_file():
        given, taken = projection_shape(sources.folder)
        return (ModuleSpec(PROJECTION, "", taken, given),)
    return head.token_modules
