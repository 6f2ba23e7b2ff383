"""What a handle needs from whoever made it: the only view that handles have of the engine."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from handles.cell import CancelOutcome, Cell


class Inferred(Protocol):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None."""

    @property
    def shape(self) -> tuple[int | None, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


class Home(Protocol):
    """The queue that a cell was dispatched to."""

    @property
    def device(self) -> Any:
        """The device that holds, or will hold, the result."""

    @property
    def on_host(self) -> bool:
        """Whether values are in the memory of the host, so that reading them takes no time."""

    @property
    def namespace(self) -> Any:
        """The array API namespace of the engine."""

    def poll(self, cell: Cell) -> bool:
        """What `await` does first: settle the cell here and now, if it can be done in no time."""

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        """What `await` runs: poll, then suspend, until the cell is settled."""

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Block this thread until the cell is settled; refuse where that would freeze a running loop."""

    def keep_going(self, cell: Cell) -> None:
        """Make sure that a cell is worked on, for a caller who asks again and again whether it is ready."""

    def host(self, cell: Cell) -> np.ndarray[Any, Any]:
        """The settled value as a read-only array, or the error raised."""

    def fetch(self, cell: Cell) -> Generator[Any, None, np.ndarray[Any, Any]]:
        """Where values are not on the host: suspend until a settled one is there; what `host` returns, or raises."""

    def peek(self, cell: Cell) -> np.ndarray[Any, Any] | None:
        """What `host` returns, None where that would take time."""

    def infer(self, cell: Cell, *, tell: bool = True) -> Inferred:
        """Shape and dtype, without waiting; `tell` is False where an error that this raises will not be seen."""

    def cancel(self, cell: Cell) -> CancelOutcome: ...

    def reduce(self, cell: Cell) -> tuple[Any, ...]:
        """How to pickle a settled cell's handle."""
