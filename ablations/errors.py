"""The two ways a command ends badly; the command line turns each into one line and an exit status."""


class RequestError(ValueError):
    """The request was wrong: one line saying what, where, and what would be right. Exit status 2."""


class RunError(RuntimeError):
    """A run failed, or its folder could not be written: one line saying which and why. Exit status 1."""
