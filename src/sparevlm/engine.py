"""What methods attach through: an engine runs models, and prunes in them what a method chooses.

Methods know no engine. One that is not here is offered by a package's entry point in the group
`sparevlm.engines`; it is asked after the one that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self

from sparevlm.plugins import offered

GROUP = "sparevlm.engines"
BUILT_IN = "sparevlm.hf:ENGINE"  # here too, so that a source tree that is not installed works


class Attachment(Protocol):
    """A method attached to a model; also a context manager, which detaches.

    Attributes
    ----------
    method : PruningMethod or Staged
    model
        What it is attached to.
    report : list
        One entry a picture, or frame of a video, of the last call that had any.
    """

    method: Any
    report: Any

    @property
    def model(self) -> Any:
        """What it is attached to."""

    def detach(self) -> None:
        """Take everything off the model; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Engine(Protocol):
    """Runs models of one kind."""

    def takes(self, model: Any) -> bool:
        """Whether this is a model of the engine's kind, supported or not."""

    def attach(self, method: Any, model: Any, **options: Any) -> Attachment:
        """Prune in every call of a model until detached; ValueError if it is not supported."""

    def prune_inputs(
        self, method: Any, model: Any, inputs: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """Shorten the inputs of one call, without touching the model."""


def engine_of(model: Any) -> Engine:
    """The engine that runs a model; the built-in one for what none takes, which says why not."""
    module, name = BUILT_IN.split(":")
    own: Engine = getattr(import_module(module), name)
    if own.takes(model):
        return own
    return next((other for other in offered(GROUP).values() if other.takes(model)), own)
