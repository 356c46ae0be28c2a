"""Run a command: exit status, and errors in one line each."""

from __future__ import annotations

import os
import sys
import traceback

import click

from ablations.cli.bench import bench
from ablations.cli.data import data
from ablations.cli.designs import compare, count, flags, show
from ablations.cli.export import export
from ablations.cli.loops import loops
from ablations.cli.pack import pack
from ablations.cli.recipe import recipe
from ablations.cli.report import report
from ablations.cli.status import status
from ablations.cli.train import run, train
from ablations.errors import RequestError, RunError, one_line
from ablations.streams import end_process, flush, prepare_streams
from ablations.training.distributed import entered, local_rank

INTERRUPTED = 130


def main() -> None:
    """Run the command; exit status 0 if it succeeds, 1 if a run fails, 2 for a wrong request, 130 if interrupted."""
    prepare_streams()
    _drop_invalid_threads()
    status = run_command(sys.argv[1:])
    if (error := flush()) is not None:
        click.echo(f"ablations: the output cannot be written ({error.strerror})", err=True)
        status = status or 1
    if entered:
        end_process(status)
    sys.exit(status)


def run_command(arguments: list[str]) -> int:
    """Run a command and return its exit status; print each error as one line."""
    try:
        with cli.make_context("ablations", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        status, message = _describe(error)
        # Of torchrun's processes, one per machine prints an error that all raise; any prints an unexpected one.
        if _is_first() or _is_unexpected(error):
            click.echo(one_line(f"ablations: {message}"), err=True)
        return status


def _drop_invalid_threads() -> None:
    """Drop a thread count that OpenMP would complain about; each run sets its own."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        counts = os.environ.get(name, "1").split(",")
        if not all(count.strip().isdigit() and int(count) > 0 for count in counts):
            del os.environ[name]


def _is_first() -> bool:
    """Whether this process is the first one of its run on this machine."""
    try:
        return local_rank() == 0
    except RequestError:  # the launcher's variables are invalid
        return True


def _describe(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the message of an error."""
    from modernize.design import DesignError

    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, "interrupted; rerun the command to resume"
        case click.ClickException():
            return 2, error.format_message()
        case RequestError() | DesignError():
            return 2, str(error)
        case RunError():
            return 1, str(error)
        case OSError(filename=None, strerror=str()):
            return 1, f"the output cannot be written ({error.strerror})"
        case UnicodeEncodeError(encoding=str()) if error.object.isprintable():
            return 1, f"{error.object}: not a file name in this locale ({error.encoding}); set LC_ALL=C.UTF-8"
    return 1, f"{type(error).__name__}: {error} (rerun with --debug for a traceback)"


def _is_unexpected(error: BaseException) -> bool:
    """Whether the program does not foresee the error."""
    from modernize.design import DesignError

    expected = (KeyboardInterrupt, click.Abort, click.ClickException, RequestError, DesignError, RunError)
    return not isinstance(error, expected)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="modernize-convnets", message="%(version)s")
def cli() -> None:
    """Run the ResNet-to-ConvNeXt roadmap and measure each flag's effect.

    A DESIGN is BASE[@ROW][,flag=value]…, such as resnet50, resnet50@depthwise, convnext_tiny,norm=bn or
    pocket@kernel-7,layer_scale=1e-6; BASE may also be a YAML file of flags.
    """


for command in (flags, recipe, show, count, compare, bench, loops, data, train, run, status, report, export, pack):
    cli.add_command(command)
