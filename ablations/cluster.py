"""Former module of `Job`: jobs that wait in a Slurm queue are pickled under this name."""

from ablations.launch.job import Job

__all__ = ["Job"]
