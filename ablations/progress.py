"""Show training progress: live bars on a terminal that can redraw them, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ablations.streams import Lasting, is_interactive
from reports.marks import warnings_of

PLAIN_SECONDS = 30  # between plain lines of one run


class Display:
    """Show runs as they start, log and end; `work` weights each run in the total, by its MACs for example."""

    def __init__(self, console: Console, work: Mapping[str, float], ended: set[str]):
        self.console = console
        self.live = is_interactive(console.file)
        self.work = work
        self.ended = set(ended)
        self.progress = dict.fromkeys(ended, 1.0)
        self.before = dict(self.progress)  # progress made before this display started
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.printed: dict[str, float] = {}
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[text]}"), console=console
        )
        self.total = self.bars.add_task("[bold]all runs", total=1.0, text="")

    def __enter__(self) -> Display:
        if self.live:
            self.bars.start()
        self.tick()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    @property
    def done(self) -> float:
        """Return the finished fraction of all work."""
        return self._share(self.progress)

    def _share(self, progress: Mapping[str, float]) -> float:
        whole = sum(self.work.values())
        return sum(self.work[run] * part for run, part in progress.items()) / whole if whole else 1.0

    @property
    def time_left(self) -> str:
        """Estimate the remaining time, as 4:05 or 1:20:00, from the work done so far."""
        gained = self.done - self._share(self.before)
        if gained <= 0:
            return "–"
        return clock((time.monotonic() - self.started) / gained * (1 - self.done))

    def start(self, run: str) -> None:
        if run in self.tasks:  # another process resumes it
            self.bars.remove_task(self.tasks.pop(run))
        self.tasks[run] = self.bars.add_task(run, total=1.0, text="")
        self.printed[run] = time.monotonic()
        self._print_plain(f"{run}: started")

    def log(self, run: str, line: Mapping[str, Any]) -> None:
        self.before.setdefault(run, line["began"] / line["steps"])
        self.progress[run] = line["step"] / line["steps"]
        speed = f"{line['images'] / line['seconds']:.0f} images/s" if line["seconds"] else ""
        text = f"epoch {line['epoch']:.2f}/{line['epochs']:g}  loss {line['loss']:.3f}  {speed}"
        self.bars.update(self.tasks[run], completed=self.progress[run], text=text)
        if time.monotonic() - self.printed[run] > PLAIN_SECONDS:
            self.printed[run] = time.monotonic()
            self._print_plain(f"{run}: {text}  {self.time_left} left")
        self.tick()

    def end(self, run: str, result: Mapping[str, Any]) -> None:
        self.progress[run] = 1.0
        if run in self.tasks:
            self.bars.remove_task(self.tasks.pop(run))
        if result["status"] == "done":
            ema = f" (EMA weights {result['ema_top1']:.2f}%)" if "ema_top1" in result else ""
            speed = f"{result['seconds']:.0f} s  {result['images_per_second']:.0f} images/s"
            some = result.get("evaluated_images", 0) < result.get("test_images", 0)
            read = f" on {result['evaluated_images']:,} of {result['test_images']:,} test images" if some else ""
            summary = f"top-1 {result['top1']:.2f}%{ema}{read}  {speed}"
            self.print(f"{run}: {summary}")
            for warning in warnings_of(result):
                self.print(f"{run}: warning: {warning}", style="yellow")
        else:
            self.print(f"{run}: failed: {result['reason']}", style="red")
        self.ended.add(run)
        self.tick()

    def tick(self) -> None:
        text = f"{len(self.ended)} of {len(self.work)} runs  {self.time_left} left"
        self.bars.update(self.total, completed=self.done, text=text)

    def _print_plain(self, line: str) -> None:
        if not self.live:
            self.print(line)

    def print(self, line: str, style: str | None = None) -> None:
        """Print a line, above the bars if there are any."""
        self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def progress_console(quiet: bool = False) -> Console:
    """Return a console on standard output; output that cannot be written is lost, and training goes on."""
    lasting = Lasting(sys.stdout) if sys.stdout is not None else None
    # Lasting passes on everything that it does not define
    return Console(file=lasting, quiet=quiet)  # type: ignore[arg-type]


def clock(seconds: float) -> str:
    """Write seconds as 4:05 or 1:20:00."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
