"""What a user may have meant by an option or an argument that a command does not have."""

from __future__ import annotations

import difflib
from typing import Any

import click

from ablations.errors import RequestError


class Command(click.Command):
    """A command that says where a design flag, a setting of the recipe or a further argument belongs."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; raise RequestError for those that belong elsewhere."""
        context.allow_extra_args = True
        try:
            super().parse_args(context, args)
        except click.NoSuchOption as error:
            if (place := _place_of(error, self)) is not None:
                raise RequestError(f"no such option {error.option_name}: {place}") from None
            raise
        if context.args:
            raise RequestError(_too_many(context.params, context.args))
        return context.args


def _place_of(error: click.NoSuchOption, command: click.Command) -> str | None:
    """Return where the name of an option that the command lacks belongs; None if it is no flag and no setting."""
    from ablations.training_config import TrainingConfig
    from modernize.design import BY_NAME
    from modernize.names import similar

    name = error.option_name.lstrip("-").replace("-", "_")
    options = {option for parameter in command.params for option in parameter.opts}
    if name in BY_NAME:
        studied = f", or study it with --flags {name}" if "--flags" in options else ""
        return f"a design flag; write it in the design's name, as in pocket,{name}=…{studied}"
    if "--set" not in options or (name not in TrainingConfig.model_fields and _is_close(error)):
        return None
    found = similar(name, TrainingConfig.model_fields)
    return f"a setting of the recipe; write --set {found[0]}=…" if found else None


def _is_close(error: click.NoSuchOption) -> bool:
    """Whether the name of an option is nearly that of an option that the command has."""
    name, known = error.option_name, error.possibilities or ()
    begun = any(name.startswith(one) or one.startswith(name) for one in known)
    return begun or bool(difflib.get_close_matches(name, known, n=1, cutoff=0.8))


def _too_many(parameters: dict[str, Any], extra: list[str]) -> str:
    """Describe arguments behind the last one that a command takes."""
    from ablations.studies.load import is_design

    study = str(parameters.get("study"))
    words = [*([study] if study != "designs" else []), *extra]
    if "study" in parameters and all(map(is_design, words)):
        return f"{', '.join(words)}: designs to compare are a study: ablations run designs --designs {','.join(words)}"
    design = parameters.get("design")
    if design is not None and all("=" in one for one in extra):
        return f"unexpected argument {extra[0]!r}: write flags in the design's name, as in {','.join([design, *extra])}"
    return f"unexpected argument {extra[0]!r}"
