"""A progress bar on standard error, for a person who has waited longer than a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0


class ProgressBar:
    """Called before each file; shows itself, and imports rich, only once the run is slow enough to deserve it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @property
    def visible(self) -> bool:
        """Whether the bar is on the screen."""
        return self._bar is not None

    def __call__(self, done: int, total: int, path: str) -> None:
        """Say how far the run is; nothing is shown while it is young."""
        if self._bar is None:
            if self._clock() - self._began < PATIENCE:
                return
            self._bar = self._shown()
            self._task = self._bar.add_task("audit", total=total, path="")
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, path=path)

    def say(self, words: str) -> None:
        """Tell what is going on now: an experiment begins."""
        if self._bar is None:
            self._bar = self._shown()
            self._task = self._bar.add_task("audit", total=None, path="")
        assert self._task is not None
        self._bar.update(self._task, total=None, path=words)

    @staticmethod
    def _shown() -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
        from rich.text import Text

        class PathColumn(ProgressColumn):
            """The file that is being looked at; as text, since a stranger chose its name."""

            def render(self, task: Task) -> Text:
                return Text(str(task.fields["path"]), style="dim", no_wrap=True, overflow="ellipsis")

        bar = Progress(
            BarColumn(bar_width=30), MofNCompleteColumn(), PathColumn(), console=Console(stderr=True), transient=True
        )
        bar.start()
        return bar

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
