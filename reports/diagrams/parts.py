"""The parts of a network that a diagram draws: stem, blocks, start of a later stage, and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from modernize.layers import BlockPlan, Layer, Layers, Linear, Plan
from reports.diagrams.layers import labels


@dataclass(frozen=True)
class Part:
    """A part of the network to draw: layers in sequence, then a block; either may be missing.

    Attributes:
        role: `stem`, `first`, `block`, `later` or `head`.
        title: Heading of the drawing.
        lead: The layers before the block.
        lead_path: Path of these layers in the network.
        block: The block.
        block_path: Path of the block in the network.
    """

    role: str
    title: str
    lead: Layers = ()
    lead_path: str = ""
    block: BlockPlan | None = None
    block_path: str = ""


def parts(plan: Plan) -> tuple[Part, ...]:
    """Return the parts to draw: blocks that differ only in their channels are drawn once."""
    stem, first, *rest, head = every_part(plan)
    block = next((part for part in rest if part.role == "block"), None)
    usual = block or first
    shown = [part for part in (first, block) if part and (part is usual or not same_structure(part, usual))]
    for part in rest:
        if part.role == "later" and same_structure(part, usual):
            title = f"before {part.title.removesuffix(', first block')}"
            shown += [replace(part, title=title, block=None)] if part.lead else []
        elif part.role == "later":
            shown.append(part)
    others = _other_parts(plan, [part for part in (first, *rest) if part.block is not None])
    if others:  # as flags of plugins make them: the titles name the one block that is drawn
        shown = [replace(part, title=place(part)) if part.block is not None else part for part in shown] + others
    if sum(part.block is not None for part in shown) == 1:
        shown[0] = replace(shown[0], title="every block")
    return (stem, *shown, head)


def every_part(plan: Plan, inner: int | None = None) -> tuple[Part, ...]:
    """Return the stem, the first block, a block within a stage, the start of the second stage, and the head.

    `inner` is the stage of the block within a stage [default: the first stage with two blocks].
    """
    first = block_part("first", "stage 1, first block", plan, 0, 0)
    every = [Part("stem", "stem", plan.stem, "stem"), first]
    if inner is None:
        inner = next((number for number, stage in enumerate(plan.stages) if len(stage.blocks) > 1), None)
    if inner is not None:
        every.append(block_part("block", "blocks within a stage", plan, inner, 1))
    if len(plan.stages) > 1:
        which = "stage 2" if len(plan.stages) == 2 else f"stages 2 to {len(plan.stages)}"
        every.append(block_part("later", f"{which}, first block", plan, 1, 0))
    return (*every, Part("head", "head", plan.head, "head"))


def _other_parts(plan: Plan, known: list[Part]) -> list[Part]:
    """Return a part for each structure of blocks that the known parts lack; only flags of plugins make such blocks."""
    found: list[Part] = []
    for s, stage in enumerate(plan.stages if plan.design.added else ()):
        for b in range(len(stage.blocks)):
            part = block_part("later" if b == 0 else "block", "", plan, s, b)
            if not any(same_structure(part, other) for other in (*known, *found)):
                found.append(replace(part, title=place(part)))
    return found


def place(part: Part) -> str:
    """Name the stage and the block of a part, from 1."""
    _, stage, _, block = part.block_path.split(".")
    return f"stage {int(stage) + 1}, block {int(block) + 1}"


def block_part(role: str, title: str, plan: Plan, stage: int, block: int) -> Part:
    """Return the part of a block; a stage's first block has the downsampling before it."""
    lead = plan.stages[stage].downsampling if block == 0 else ()
    path = f"stages.{stage}.blocks.{block}"
    return Part(role, title, lead, f"stages.{stage}.downsampling", plan.stages[stage].blocks[block], path)


def same_structure(one: Part, other: Part) -> bool:
    """Return whether two parts' blocks differ at most in their channels."""
    return one.block is not None and other.block is not None and _structure(one.block) == _structure(other.block)


def _structure(block: BlockPlan) -> tuple:
    sections = (block.residual, block.shortcut, block.after)
    return tuple(tuple((layer.name, getattr(layer, "stride", 1)) for layer in section) for section in sections)


def layers_of(part: Part) -> Iterator[tuple[str, Layer]]:
    """Yield each layer of a part with its path in the network, in the order of drawing."""
    for layer in part.lead:
        yield f"{part.lead_path}.{layer.name}", layer
    if part.block is not None:
        for section in ("residual", "shortcut", "after"):
            for layer in getattr(part.block, section):
                yield f"{part.block_path}.{section}.{layer.name}", layer


def ends(part: Part) -> tuple[str, str]:
    """Return the labels of a part's input and output."""
    trunk = part.lead + (part.block.residual if part.block else ())
    sizes = [size for size in (layer.in_and_out for layer in trunk) if size]
    if not sizes:  # a head of pooling alone
        return "feature map", "features"
    out = f"{sizes[-1][1]} classes" if isinstance(trunk[-1], Linear) else _count(sizes[-1][1])
    return _count(sizes[0][0]), out


def _count(count: int) -> str:
    return f"{count} channel{'s' if count != 1 else ''}"


def words(part: Part) -> tuple[str, ...]:
    """Return every text of a part's drawing, in order: input, the lines of each layer, output."""
    into, out = ends(part)
    return (into, *(line for _, layer in layers_of(part) for line in labels(layer)), out)
