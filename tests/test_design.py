"""Designs: flags read from text and YAML, names of designs, and refusals of one line that say what would work."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import modernize
from modernize import FLAGS, MODELS, Design, DesignError
from modernize.design import text

NAMES = [flag.name for flag in FLAGS]
ROWS = [row.name for row in modernize.roadmap("resnet50").rows]
CONVNEXT = MODELS["convnext_tiny"]

VALID: dict[str, st.SearchStrategy[Any]] = {
    "depths": st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple),
    "width": st.integers(1, 3125),
    "stem": st.sampled_from(["resnet", "patchify"]),
    "stem_stride": st.integers(1, 64),
    "kernel_size": st.integers(0, 50).map(lambda half: 2 * half + 1),
    "activation": st.sampled_from(["relu", "gelu"]),
    "norm": st.sampled_from(["bn", "ln"]),
    "layer_scale": st.none() | st.floats(1e-30, 1000),
}
DESIGNS = st.builds(Design, **{name: VALID.get(name, st.booleans()) for name in NAMES})

YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FRAGMENTS = st.sampled_from(
    [*NAMES, *ROWS, "resnet", "patchify", "gelu", "on", "off", "4", "-1", "1e-6", "inf", "nan", ".yaml", "\n", "/", " "]
)
TAILS = st.lists(st.sampled_from(",=@-") | FRAGMENTS | st.text(max_size=6), max_size=10).map("".join)


def refusal(name: str) -> str:
    """What is said of a name that is no design."""
    with pytest.raises(DesignError) as caught:
        modernize.design(name)
    return one_line(caught.value)


def one_line(error: DesignError) -> str:
    message = str(error)
    assert message.strip() and len(message.splitlines()) == 1
    return message


def yaml_file(folder: Path, content: str | bytes, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# The flags -----------------------------------------------------------------------------------------------------------


def test_the_flags_are_the_designs_fields() -> None:
    assert [field.name for field in dataclasses.fields(Design) if field.name != "added"] == NAMES
    assert len(NAMES) == 15
    assert all(flag.accepts and flag.meaning for flag in FLAGS)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(DESIGNS, DESIGNS)
def test_a_flag_changes_no_part_of_the_network_but_its_own(design: Design, other: Design) -> None:
    plan = modernize.compile_plan(design)
    for flag in FLAGS:
        try:
            changed = modernize.compile_plan(design.with_flags({flag.name: getattr(other, flag.name)}))
        except DesignError:  # too many channels for these stages
            continue
        if "stem" not in flag.parts:
            assert changed.stem == plan.stem, flag.name
        if "body" not in flag.parts:
            assert (changed.stages, changed.head) == (plan.stages, plan.head), flag.name


def test_the_values_that_a_flag_offers_are_valid_and_all_there_are_unless_it_has_examples() -> None:
    for flag in FLAGS:
        read = [flag.read(value) for value in flag.values]
        assert [flag.read(text(value)) for value in read] == read and len(set(read)) == len(read)
        if not flag.examples:
            with pytest.raises(DesignError):
                flag.read("another")


def test_the_defaults_are_resnet50() -> None:
    assert Design() == MODELS["resnet50"] == modernize.design("resnet50")
    assert Design().flags() == {
        "depths": "3-4-6-3",
        "width": 64,
        "stem": "resnet",
        "stem_stride": 4,
        "depthwise": False,
        "inverted_bottleneck": False,
        "depthwise_first": False,
        "kernel_size": 3,
        "activation": "relu",
        "fewer_activations": False,
        "norm": "bn",
        "fewer_norms": False,
        "separate_downsampling": False,
        "layer_scale": "off",
        "grn": False,
    }


SWITCHES = ("depthwise", "inverted_bottleneck", "depthwise_first", "fewer_activations", "fewer_norms", "grn")
READ: list[tuple[str, Any, Any]] = [
    ("depths", "3-3-9-3", (3, 3, 9, 3)),
    ("depths", "18", (18,)),
    ("depths", 18, (18,)),
    ("depths", [1, 2], (1, 2)),
    ("depths", ["1", "2"], (1, 2)),
    ("depths", (5,), (5,)),
    ("width", "96", 96),
    ("width", 96, 96),
    ("stem", "patchify", "patchify"),
    ("stem", "resnet", "resnet"),
    ("stem_stride", "16", 16),
    ("stem_stride", 1, 1),
    ("kernel_size", "11", 11),
    ("kernel_size", 1, 1),
    ("activation", "gelu", "gelu"),
    ("activation", "relu", "relu"),
    ("norm", "ln", "ln"),
    ("norm", "bn", "bn"),
    ("layer_scale", "1e-6", 1e-6),
    ("layer_scale", 1e-6, 1e-6),
    ("layer_scale", 1, 1.0),
    ("layer_scale", "off", None),
    ("layer_scale", False, None),
    ("layer_scale", None, None),
    *((name, given, True) for name in (*SWITCHES, "separate_downsampling") for given in ("on", "true", "True", True)),
    *((name, given, False) for name in (*SWITCHES, "separate_downsampling") for given in ("off", "false", "No", False)),
]


@pytest.mark.parametrize(("name", "value", "read"), READ)
@pytest.mark.parametrize("base", [Design(), CONVNEXT], ids=["resnet50", "convnext_tiny"])
def test_a_flag_is_read_from_text_and_yaml(base: Design, name: str, value: Any, read: Any) -> None:
    changed = base.with_flags({name: value})
    found = getattr(changed, name)
    assert found == read and type(found) is type(read)
    assert dataclasses.replace(changed, **{name: getattr(base, name)}) == base  # and nothing else has changed


def test_every_flag_is_read_in_some_way() -> None:
    assert {name for name, _, _ in READ} == set(NAMES)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(DESIGNS, DESIGNS)
def test_flags_make_the_round_trip_over_any_other_design(design: Design, other: Design) -> None:
    flags = design.flags()
    assert list(flags) == NAMES
    assert other.with_flags(flags) == design
    assert other.with_flags(yaml.safe_load(yaml.safe_dump(flags))) == design
    assert other.with_flags({name: text(value) for name, value in flags.items()}) == design
    assert other.with_flags(design.differences(other)) == design
    assert set(design.differences(other)) == {name for name in NAMES if getattr(design, name) != getattr(other, name)}
    typed = ",".join(f"{name}={text(getattr(design, name))}" for name in NAMES)
    assert modernize.design(f"convnext_tiny,{typed}") == design


def test_a_value_is_shown_as_it_is_typed() -> None:
    assert [text(value) for value in ((3, 3), True, False, None, 1e-6, 7)] == ["3-3", "on", "off", "off", "1e-06", "7"]


# Names: BASE[@ROW][,flag=value]… -------------------------------------------------------------------------------------


def test_a_base_is_a_named_model() -> None:
    for name, design in MODELS.items():
        assert modernize.design(name) == design


def test_a_row_goes_up_the_bases_roadmap() -> None:
    found = modernize.design("resnet50@depthwise")
    assert found.differences(Design()) == {
        "depths": "3-3-9-3",
        "stem": "patchify",
        "depthwise": True,
        "layer_scale": 1e-6,
    }
    assert modernize.design("resnet200@width").width == 128
    assert modernize.design("pocket@kernel-11").kernel_size == 11


def test_flags_come_after_base_and_row() -> None:
    assert modernize.design("convnext_tiny,norm=bn") == CONVNEXT.with_flags({"norm": "bn"})
    assert modernize.design("resnet50,stem=patchify,kernel_size=7") == Design(stem="patchify", kernel_size=7)
    assert modernize.design("resnet50, kernel_size = 7 ") == Design(kernel_size=7)
    assert modernize.design("resnet50@kernel-7,layer_scale=off,depths=2-2") == modernize.design(
        "resnet50@kernel-7"
    ).with_flags({"layer_scale": None, "depths": (2, 2)})


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_a_base_is_a_yaml_file_of_flags_over_resnet50s(tmp_path: Path, name: str) -> None:
    content = "depths: 3-3-9-3\nwidth: 96\nkernel_size: 7\ndepthwise: on\nnorm: ln\nlayer_scale: 1e-6\n"
    path = yaml_file(tmp_path, content, name)
    expected = Design(depths=(3, 3, 9, 3), width=96, kernel_size=7, depthwise=True, norm="ln", layer_scale=1e-6)
    assert modernize.design(str(path)) == expected
    assert modernize.design(f"{path},layer_scale=off,width=8") == dataclasses.replace(
        expected, layer_scale=None, width=8
    )


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("depths: [1, 2]", "depths", (1, 2)),
        ("depths: 18", "depths", (18,)),
        ("layer_scale: off", "layer_scale", None),
        ("layer_scale:", "layer_scale", None),
        ("layer_scale: 0.1", "layer_scale", 0.1),
        ("fewer_norms: yes", "fewer_norms", True),
        ("fewer_norms: 'off'", "fewer_norms", False),
    ],
)
def test_yaml_values_are_read(tmp_path: Path, line: str, name: str, value: Any) -> None:
    assert getattr(modernize.design(str(yaml_file(tmp_path, line))), name) == value


def test_a_file_of_all_a_designs_flags_is_that_design(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, yaml.safe_dump(CONVNEXT.flags()))
    assert modernize.design(str(path)) == CONVNEXT


# What is refused, and what is said -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet50,kernel_size=4", ["kernel_size=4", " 3 and 5"]),
        ("resnet50,kernel_size=12", ["kernel_size=12", " 11 and 13"]),
        ("resnet50,kernel_size=0", ["kernel_size=0", "nearest valid value: 1"]),
        ("resnet50,kernel_size=-3", ["kernel_size=-3", "nearest valid value: 1"]),
        ("resnet50,kernel_size=seven", ["kernel_size=seven", "must be an integer"]),
        ("resnet50,depths=3-0-9", ["depths=3-0-9", "nearest valid value: 3-1-9"]),
        ("resnet50,depths=0", ["depths=0", "nearest valid value: 1"]),
        ("resnet50,depths=", ["depths=", "such as 3-3-9-3"]),
        ("resnet50,depths=3-x", ["depths=3-x", "such as 3-3-9-3"]),
        ("resnet50,depths=3--3", ["depths=3--3", "such as 3-3-9-3"]),
        ("resnet50,width=0", ["width=0", "nearest valid value: 1"]),
        ("resnet50,width=-64", ["width=-64", "nearest valid value: 1"]),
        ("resnet50,width=1.5", ["width=1.5", "must be an integer"]),
        ("resnet50,stem_stride=0", ["stem_stride=0", "nearest valid value: 1"]),
        ("resnet50,stem=patch", ["stem=patch", "resnet, patchify"]),
        ("resnet50,activation=silu", ["activation=silu", "relu, gelu"]),
        ("resnet50,norm=gn", ["norm=gn", "bn, ln"]),
        ("resnet50,depthwise=maybe", ["depthwise=maybe", "on or off"]),
        ("resnet50,layer_scale=0", ["layer_scale=0", "off", "1e-6"]),
        ("resnet50,layer_scale=-1", ["layer_scale=-1", "off", "1e-6"]),
        ("resnet50,layer_scale=nan", ["layer_scale=nan", "off", "1e-6"]),
        ("resnet50,layer_scale=inf", ["layer_scale=inf", "off", "1e-6"]),
        ("resnet50,layer_scale=on", ["layer_scale=on", "off", "1e-6"]),
        ("resnet51", ["'resnet51'", "did you mean 'resnet50'?"]),
        ("convnext_tinny,norm=bn", ["'convnext_tinny'", "did you mean 'convnext_tiny'?"]),
        ("", ["''", "resnet50", "pocket"]),
        ("resnet50,kernal_size=7", ["'kernal_size'", "did you mean 'kernel_size'?"]),
        ("resnet50,zzz=7", ["'zzz'", *NAMES]),
        ("resnet50,=7", ["''", *NAMES]),
        ("resnet50@kernel-6", ["'kernel-6'", "did you mean 'kernel-"]),
        ("resnet50@depthwize", ["'depthwize'", "did you mean 'depthwise'?"]),
        ("resnet50@", ["''", *ROWS]),
        ("resnet50@swin", ["'swin'"]),
        ("resnet50@gelu@gelu", ["'gelu@gelu'"]),
        ("convnext_tiny@depthwise", ["convnext_tiny@depthwise", "resnet50, resnet200, pocket"]),
        ("resnet50,kernel_size", ["'kernel_size'", "flag=value"]),
        ("resnet50,", ["''", "flag=value"]),
        ("resnet50,norm=ln,,width=8", ["''", "flag=value"]),
    ],
)
def test_a_refusal_names_the_flag_and_what_would_work(name: str, says: list[str]) -> None:
    message = refusal(name)
    for words in says:
        assert words in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depths", []),
        ("depths", ()),
        ("depths", None),
        ("depths", True),
        ("depths", [1, [2]]),
        ("depths", [1.0, 2]),
        ("depths", {"a": 1}),
        ("width", True),
        ("width", 64.0),
        ("width", None),
        ("kernel_size", [7]),
        ("kernel_size", True),
        ("stem", None),
        ("stem", ["resnet"]),
        ("stem", {"resnet": 1}),
        ("depthwise", 1),
        ("depthwise", None),
        ("norm", False),
        ("layer_scale", True),
        ("layer_scale", 0),
        ("layer_scale", [1e-6]),
        ("layer_scale", float("nan")),
    ],
)
def test_a_yaml_value_of_the_wrong_kind_is_refused(name: str, value: Any) -> None:
    for refuse in (Design().with_flags, lambda flags: Design(**flags)):
        with pytest.raises(DesignError, match=f"^{name}=.*: must be ") as caught:
            refuse({name: value})
        one_line(caught.value)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"width", "stem_stride", "depths"}))
def test_a_number_too_large_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(DesignError, match=f"^{name}=") as caught:
        Design().with_flags({name: 10**400})
    one_line(caught.value)


@pytest.mark.parametrize("name", [1, None, True, 1.5, ("depths",), b"depths"])
def test_a_name_of_a_flag_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(DesignError, match=r"^unknown flag ") as caught:
        Design().with_flags({name: 3})
    one_line(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_value_of_more_lines_is_shown_in_one(name: str) -> None:
    for value in ("a\nb", "a\rb", "a\x0bb", "a\x85b", "a\u2028b", ["a\nb"], {"a\nb": "c\nd"}):
        with pytest.raises(DesignError, match=f"^{name}=") as caught:
            Design().with_flags({name: value})
        one_line(caught.value)


# Files that are refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("kernal_size: 7", ["'kernal_size'", "did you mean 'kernel_size'?"]),
        ("kernel_size: 4", ["kernel_size=4", " 3 and 5"]),
        ("depths: 3-0-9", ["depths=3-0-9", "nearest valid value: 3-1-9"]),
        ("layer_scale: yes", ["layer_scale=yes", "1e-6"]),
        ("depths: 2020-10-10", ["depths=2020-10-10", "nearest valid value: 1000-10-10"]),
        ("{unclosed: [", ["not YAML"]),
        ("a: b: c", ["not YAML"]),
        ("\tkernel_size: 7", ["not YAML"]),
        ("width: !!python/object:os.system 1", ["not YAML"]),
        ("width: 3\n---\nwidth: 4", ["not YAML"]),
        ("- kernel_size: 7", ["must contain keys and values"]),
        ("kernel_size=7", ["must contain keys and values"]),
        ("", ["must contain keys and values"]),
        (b"\xff\xfe\xff", ["not YAML"]),
        # What follows is YAML that its reader trips over.
        ("1: 2", ["unknown flag 1"]),
        ("on: 2", ["unknown flag 'on'"]),
        ("~: 2", ["unknown flag None"]),
        ("width: 2020-13-45", []),
        ("width: " + "9" * 5000, []),
        ('stem: "a\\nb"', ["stem=", "resnet, patchify"]),
    ],
)
def test_a_bad_file_is_refused_by_its_name(tmp_path: Path, content: str | bytes, says: list[str]) -> None:
    path = yaml_file(tmp_path, content)
    message = refusal(str(path))
    assert message.startswith((f"{path}: ", f"{path}, line "))
    for words in says:
        assert words in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing, folder, loop = (tmp_path / f"{name}.yaml" for name in ("missing", "folder", "loop"))
    folder.mkdir()
    loop.symlink_to(loop)
    assert refusal(str(missing)) == f"{missing}: no such file"
    assert refusal(str(folder)) == f"{folder}: cannot be read (Is a directory)"
    assert refusal(str(loop)) == f"{loop}: cannot be read (Too many levels of symbolic links)"
    assert "cannot be read" in refusal(f"{tmp_path / ('x' * 300)}.yaml")


@pytest.mark.parametrize("name", ["\0.yaml", "a\0b.yml", "\ud800.yaml", "a\nb.yaml"])
def test_a_path_that_cannot_be_is_refused(name: str) -> None:
    assert re.search("cannot be read|no such file", refusal(name))


def test_no_roadmap_starts_at_a_file(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "width: 8")
    assert "no roadmap starts at" in refusal(f"{path}@depthwise")


# Whatever is typed ---------------------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(["", *MODELS]), TAILS)
@example("", "\0.yaml")
@example("", "a\nb.yaml")
@example("resnet50", ",stem=a\nb")
@example("resnet50", ",layer_scale=1" + "0" * 400)
@example("resnet50", ",width=" + "9" * 5000)
@example("resnet50", ",kernel_size=" + "8" * 4300)
def test_any_text_after_a_base_is_a_design_or_is_refused_in_one_line(base: str, tail: str) -> None:
    try:
        assert isinstance(modernize.design(base + tail), Design)
    except DesignError as error:
        one_line(error)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(NAMES), YAML_VALUES, min_size=1, max_size=3))
def test_any_yaml_values_are_a_design_or_are_refused_in_one_line(flags: dict[str, Any]) -> None:
    try:
        found = Design().with_flags(flags)
    except DesignError as error:
        one_line(error)
    else:
        assert Design().with_flags(found.flags()) == found


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(NAMES), YAML_VALUES))
def test_any_yaml_mapping_is_a_design_or_is_refused_in_one_line(flags: dict[Any, Any]) -> None:
    try:
        assert isinstance(Design().with_flags(flags), Design)
    except DesignError as error:
        one_line(error)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(NAMES), FRAGMENTS | st.integers().map(str) | st.text())
def test_any_text_for_a_flag_is_read_or_refused_by_the_flags_name(name: str, value: str) -> None:
    try:
        found = Design().with_flags({name: value})
    except DesignError as error:
        assert one_line(error).startswith(f"{name}=")
    else:
        assert found.with_flags({name: text(getattr(found, name))}) == found
