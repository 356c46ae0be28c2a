"""The former place of `Job`: jobs that wait in a Slurm queue are pickled under this name."""

from ablations.launch.slurm import Job

__all__ = ["Job"]
