"""Random designs for property tests: any combination of the flags, small."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from modernize import Design
from modernize.plugins import plugins


class Case(NamedTuple):
    design: Design
    image_size: int
    in_channels: int
    num_classes: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any combination of the flags, those of loaded plugins too, small; images of up to 40 px, often the smallest."""
    depths = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=4)))
    stem = draw(st.sampled_from(["resnet", "patchify"]))
    separate = draw(st.booleans())
    positions = 2 ** (len(depths) - 1) if separate else 1
    stem_stride = draw(st.sampled_from([s for s in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16) if s * positions <= 40]))
    smallest = stem_stride * positions if stem == "patchify" else stem_stride * (positions - 1) + 1
    design = Design(
        depths=depths,
        width=draw(st.integers(1, 8)),
        stem=stem,
        stem_stride=stem_stride,
        depthwise=draw(st.booleans()),
        inverted_bottleneck=draw(st.booleans()),
        depthwise_first=draw(st.booleans()),
        kernel_size=draw(st.sampled_from([1, 3, 5, 7, 9, 11])),
        activation=draw(st.sampled_from(["relu", "gelu"])),
        fewer_activations=draw(st.booleans()),
        norm=draw(st.sampled_from(["bn", "ln"])),
        fewer_norms=draw(st.booleans()),
        separate_downsampling=separate,
        layer_scale=draw(st.sampled_from([None, 1e-6, 1.0])),
        grn=draw(st.booleans()),
    )
    added = {flag.name: draw(st.sampled_from(flag.values)) for plugin in plugins() for flag in plugin.flags}
    design = design.with_flags(added)
    image_size = draw(st.just(smallest) | st.integers(smallest, min(40, smallest + 8 * stem_stride)))
    return Case(design, image_size, draw(st.integers(1, 4)), draw(st.integers(1, 11)))
