"""The former place of `joined`, which programs import from here."""

from ablations.training.distributed import joined

__all__ = ["joined"]
