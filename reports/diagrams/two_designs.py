"""The differences between two designs: each part that differs, before and after, with marks on its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from modernize.design import Design, text
from modernize.layers import Plan
from reports.diagrams.boxes import BADGE, draw, narrowest
from reports.diagrams.drawing import Drawing, flow, line_of_text, stacked, svg_file
from reports.diagrams.parts import Part, block_part, every_part, layers_of, place, same_structure


@dataclass(frozen=True)
class Change:
    """A change of a layer: `added`, `removed`, `changed`, `moved` or `changed moved`, and its paths."""

    what: str
    before: str | None
    after: str | None


def changes(before: Part | None, after: Part | None) -> tuple[Change, ...]:
    """List the differences between two parts of one role; layers correspond by path within the part."""
    old, new = (
        {_own(part, path): (path, layer) for path, layer in layers_of(part)} if part else {} for part in (before, after)
    )
    common, order = [key for key in old if key in new], [key for key in new if key in old]
    matches = SequenceMatcher(a=common, b=order, autojunk=False).get_matching_blocks()
    kept = {common[match.a + place] for match in matches for place in range(match.size)}
    differences = [Change("removed", path, None) for key, (path, _) in old.items() if key not in new]
    for key, (path, layer) in new.items():
        if key not in old:
            differences.append(Change("added", None, path))
        else:
            what = [*(["changed"] if old[key][1] != layer else []), *(["moved"] if key not in kept else [])]
            differences += [Change(" ".join(what), old[key][0], path)] if what else []
    return tuple(differences)


def _own(part: Part, path: str) -> str:
    """Return a layer's path within its part."""
    inside = part.block is not None and path.startswith(f"{part.block_path}.")
    return path.removeprefix(f"{part.block_path}.") if inside else f"lead.{path.rpartition('.')[2]}"


def difference(before: Plan, after: Plan, names: tuple[str, str]) -> str:
    """Return the differences between two designs as an SVG file: the flags, and each part before and after."""
    pairs = paired_parts(before, after)
    differing = [pair for pair in pairs if changes(*pair)]
    rows = [line_of_text(f"{names[0]}  →  {names[1]}", "title")]
    rows.append(flow([line_of_text(line) for line in flag_lines(before.design, after.design)], 0))
    same = [new.title for old, new in pairs if new and (old, new) not in differing]
    rows += [line_of_text(f"unchanged: {', '.join(same)}", "muted")] if same else []
    if before.design.norm != after.design.norm:
        rows.append(line_of_text("the convolutions of blocks have biases with norm=ln, none with norm=bn", "muted"))
    picture = stacked(rows, 3)
    if differing:
        base = narrowest([part for pair in differing for part in pair if part]) + 2 * BADGE
        key = line_of_text("+ added   − removed   ≠ changed   ↕ moved", "muted")
        picture = stacked([picture, key, flow([_pair(*pair, base, names) for pair in differing])], 14)
    return svg_file(picture, f"{names[0]} and {names[1]}: what changed", " · ".join(names))


def flag_lines(before: Design, after: Design) -> list[str]:
    """List the flags that differ, such as `kernel_size: 3 → 7`."""
    return [
        f"{name}: {text(getattr(before, name))} → {text(getattr(after, name))}" for name in after.differences(before)
    ] or ["no flag differs"]


def paired_parts(before: Plan, after: Plan) -> list[tuple[Part | None, Part | None]]:
    """Pair the parts of two plans by role; None if a plan does not have the role."""
    both = zip(before.stages, after.stages, strict=False)
    inner = next((n for n, stages in enumerate(both) if min(len(stage.blocks) for stage in stages) > 1), None)
    old, new = ({part.role: part for part in every_part(plan, inner)} for plan in (before, after))
    roles = [role for role in ("stem", "first", "block", "later", "head") if role in old or role in new]
    pairs = [(old.get(role), new.get(role)) for role in roles]
    if not (before.design.added or after.design.added):
        return pairs
    return [(_placed(one), _placed(other)) for one, other in pairs + _other_pairs(before, after, pairs)]


def _other_pairs(
    before: Plan, after: Plan, known: Sequence[tuple[Part | None, Part | None]]
) -> list[tuple[Part, Part]]:
    """Pair the blocks that differ as in none of the known pairs; only flags of plugins make such blocks."""
    shown = [(one, other) for one, other in known if one and other]
    found: list[tuple[Part, Part]] = []
    for s, stages in enumerate(zip(before.stages, after.stages, strict=False)):
        for b in range(min(len(stage.blocks) for stage in stages)):
            old, new = (block_part("later" if b == 0 else "block", "", plan, s, b) for plan in (before, after))
            alike = (same_structure(one, old) and same_structure(other, new) for one, other in shown + found)
            if changes(old, new) and not any(alike):
                found.append((old, new))
    return found


def _placed(part: Part | None) -> Part | None:
    """Title a block by its stage and number."""
    return replace(part, title=place(part)) if part and part.block is not None else part


def _pair(before: Part | None, after: Part | None, base: int, names: tuple[str, str]) -> Drawing:
    """Draw a part before and after, in a row, with marks on the boxes."""
    differences = changes(before, after)
    drawings = []
    for part, name, side in ((before, names[0], "before"), (after, names[1], "after")):
        if part:
            marks = {getattr(change, side): change.what for change in differences if getattr(change, side)}
            drawings.append(stacked([line_of_text(name, "small muted"), draw(part, base, marks=marks)], 0))
    title = next(part.title for part in (after, before) if part)
    return stacked([line_of_text(title, "name"), flow(drawings)], 2)
