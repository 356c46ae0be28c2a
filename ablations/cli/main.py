"""Run a command: exit status, and errors in one line each."""

from __future__ import annotations

import os
import sys
import traceback

import click

from ablations.cli.bench import bench
from ablations.cli.designs import compare, count, flags, show
from ablations.cli.report import report
from ablations.cli.train import data, run, status, train
from ablations.errors import RequestError, RunError
from ablations.training.distributed import local_rank

INTERRUPTED = 130


def main() -> None:
    """Runs the command; exit status 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """The exit status of a command, its troubles said in one line each."""
    try:
        with cli.make_context("ablations", arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        status, message = _trouble(error)
        # of the processes that torchrun started: what all have met is told by one a machine, a surprise by any
        if local_rank() == 0 or _is_surprise(error):
            click.echo(" ".join(f"ablations: {message}".split()), err=True)
        return status


def _trouble(error: BaseException) -> tuple[int, str]:
    """The exit status and the words for what went wrong."""
    from modernize.design import DesignError

    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED, "interrupted; the same command goes on from here"
        case click.ClickException():
            return 2, error.format_message()
        case RequestError() | DesignError():
            return 2, str(error)
        case RunError():
            return 1, str(error)
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def _is_surprise(error: BaseException) -> bool:
    """Whether it is no error that the program foresees."""
    from modernize.design import DesignError

    foreseen = (KeyboardInterrupt, click.Abort, click.ClickException, RequestError, DesignError, RunError)
    return not isinstance(error, foreseen)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="modernize-convnets", message="%(version)s")
def cli() -> None:
    """Train ResNet's road to ConvNeXt one design flag at a time, and see what each was worth.

    A DESIGN is BASE[@ROW][,flag=value]…, such as resnet50, resnet50@depthwise, convnext_tiny,norm=bn or
    pocket@kernel-7,layer_scale=1e-6; BASE may be a YAML file of flags.
    """


for command in (flags, show, count, compare, bench, data, train, run, status, report):
    cli.add_command(command)
