"""Former module of `joined`, kept for programs that import it from here."""

from ablations.training.distributed import joined

__all__ = ["joined"]
