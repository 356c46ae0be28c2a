"""The command line. Heavy imports happen inside the command that needs them, so that --help is fast."""

from ablations.cli.main import main, run_command

__all__ = ["main", "run_command"]
