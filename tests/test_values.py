"""One reader for all values: options, names of designs and recipes, and YAML files, by the rules of YAML 1.2."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe, read_yaml, recipe_names, shipped
from ablations.studies.load import load_study, study_names
from ablations.studies.schema import Study, read_budget
from modernize import DesignError, design
from modernize.numbers import is_doubtful, parse_number
from modernize.yaml_file import as_yaml, parse_yaml, read_mapping

NUMBERS: dict[str, int | float] = {
    **{"0": 0, "64": 64, "+5": 5, "-3": -3, "-0": 0, "0x10": 16, "0xfF": 255, "0o10": 8},
    **{"1.": 1.0, ".5": 0.5, "0.5": 0.5, "-.5": -0.5, "1e3": 1000.0, "1e-3": 0.001, "1.5E+2": 150.0, "1.e3": 1000.0},
    **{".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf},
}
DOUBTFUL = [
    *("0100", "010", "-010", "00", "08", "01.5", "00.5", "010e1", "1_000", "1_0.5", "_1", "1:30", "1:30:00", "1:30.5"),
    *("0b101", "-0x10", "+0o7", "0X10", "0O7", "٣", "６４", "1٣", "1.2.3"),
    *("\N{NO-BREAK SPACE}64", "64\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE}64"),
]
NO_NUMBERS = [
    "",
    "-",
    ".",
    "e3",
    "1e",
    "0x",
    "0o8",
    "0xg",
    "nan",
    "NaN",
    "inf",
    "infinity",
    "1 2",
    "1,",
    "½",
    "²",
    "yes",
]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_of_yaml_1_2_is_read(text: str) -> None:
    for found in (parse_number(text), parse_yaml(text), parse_yaml(f"[{text}]")[0]):
        assert (found, type(found)) == (NUMBERS[text], type(NUMBERS[text]))
    assert math.isnan(parse_number(".nan"))


@pytest.mark.parametrize("text", [*DOUBTFUL, *NO_NUMBERS])
def test_other_spellings_are_no_number_and_stay_the_text_they_are_in_a_file(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_number(text)
    assert is_doubtful(text) == (text in DOUBTFUL)
    if text.strip(",") and text != "-":
        assert read_back({"partition": text}) == {"partition": text}


def read_back(values: Any) -> Any:
    return parse_yaml(as_yaml(values))


# Every way in: a value is written into each place that takes a number, and the same spellings are accepted ------------


def study(folder: Path, line: str) -> Any:
    path = folder / "mine.yaml"
    path.write_text(f"base: pocket\n{line}\n", encoding="utf-8")
    return load_study(str(path), {}, {})


def recipe_file(folder: Path, line: str) -> TrainingConfig:
    path = folder / "recipe.yaml"
    path.write_text(f"max_epochs: 1\nlearning_rate: 0.1\nbatch_size: 8\n{line}\n", encoding="utf-8")
    return load_recipe(str(path))


def design_file(folder: Path, line: str) -> Any:
    path = folder / "design.yaml"
    path.write_text(f"{line}\n", encoding="utf-8")
    return design(str(path))


SWEEP = "kind: sweep\nflags:"
WAYS: dict[str, Callable[[Path, str], Any]] = {
    "--set": lambda _, text: load_recipe("quick", {"image_size": text}).image_size,
    "recipe's name": lambda _, text: load_recipe(f"quick,image_size={text}").image_size,
    "recipe file": lambda folder, text: recipe_file(folder, f"image_size: {text}").image_size,
    "recipe file, quoted": lambda folder, text: recipe_file(folder, f'image_size: "{text}"').image_size,
    "Python": lambda _, text: (
        load_recipe("quick").model_validate({**load_recipe("quick").model_dump(), "image_size": text}).image_size
    ),
    "seeds of a file": lambda folder, text: study(folder, f"kind: one-in\nseeds: [{text}]").seeds[0],
    "flags of a file": lambda folder, text: study(folder, f"{SWEEP} {{width: [{text}]}}").rows[0].flags["width"],
    "max_seeds of a file": lambda folder, text: (
        study(folder, f"kind: one-in\nprecision: 1\nmax_seeds: {text}").precision.max_seeds
    ),
    "cluster of a file": lambda folder, text: study(folder, f"kind: one-in\ncluster: {{cpus: {text}}}").cluster.cpus,
    "design's name": lambda _, text: design(f"pocket,width={text}").width,
    "design file": lambda folder, text: design_file(folder, f"width: {text}").width,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_reads_the_same_number(way: str, tmp_path: Path) -> None:
    for text, number in {"64": 64, "+64": 64, "0x40": 64, "0o100": 64}.items():
        assert WAYS[way](tmp_path, text) == number
    for text in DOUBTFUL:
        with pytest.raises((RequestError, DesignError)) if way != "Python" else pytest.raises(ValueError) as caught:
            WAYS[way](tmp_path, text)
        if way != "Python":
            assert len(str(caught.value).splitlines()) == 1
            assert "must be" in str(caught.value)


OPTIONS = {
    "--seeds": "run one-in --base pocket --dry-run --seeds",
    "--orders": "run orders --base pocket --dry-run --orders",
    "--precision": "run one-in --base pocket --dry-run --precision",
    "--max-cost": "run screen --base pocket --dry-run --max-cost",
    "--flags": "run sweep --base pocket --dry-run --flags",
    "--budget": "run one-in --base pocket --dry-run --budget",
    "--seed": "train pocket --seed",
    "--set": "train pocket --set",
    "--image-size": "count pocket --image-size",
    "--over": "bench pocket --over",
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("text", ["010", "1_0", "1:30", "٣", "nan", "\N{NO-BREAK SPACE}3"])
def test_options_refuse_doubtful_numbers_in_one_line(
    option: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "01:30" if (option, text) == ("--flags", "1:30") else text  # a colon is between two values there
    before = {"--flags": "width=", "--set": "batch_size=", "--over": "batch-size="}.get(option, "")
    assert run_command([*OPTIONS[option].split(), f"{before}{text}{'epochs' if option == '--budget' else ''}"]) == 2
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert option in output.err or before.strip("=").replace("-", "_") in output.err.replace("-", "_")


@pytest.mark.parametrize(
    "command",
    [
        "run grid --base pocket --flags kernel_size=3:5,kernel_size=7",
        "bench pocket --over batch-size=1 --over batch-size=2",
    ],
)
def test_values_of_a_flag_in_two_places_are_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command.split()) == 2
    assert "set twice" in capsys.readouterr().err


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "true", "false", "On", "OFF", "True"])
def test_switches_take_the_words_that_they_always_took(word: str, tmp_path: Path) -> None:
    on = word.lower() in ("on", "yes", "true")
    assert design(f"pocket,depthwise={word}").depthwise is on
    assert design_file(tmp_path, f"depthwise: {word}").depthwise is on
    assert load_recipe("quick", {"horizontal_flip": word}).horizontal_flip is on
    assert recipe_file(tmp_path, f"horizontal_flip: {word}").horizontal_flip is on
    assert study(tmp_path, f"{SWEEP} {{depthwise: [{word}]}}").rows[0].row == f"depthwise={'on' if on else 'off'}"
    if not on:
        assert design_file(tmp_path, f"layer_scale: {word}").layer_scale is None


def test_words_and_dates_are_text_elsewhere(tmp_path: Path) -> None:
    block = "{partition: no, constraint: 2026-11-25, time: 1:30, options: {qos: 010, kill-on-invalid-dep: yes}}"
    cluster = study(tmp_path, f"kind: one-in\ncluster: {block}").cluster
    assert cluster is not None
    assert (cluster.partition, cluster.constraint, cluster.time) == ("no", "2026-11-25", "1:30")
    assert cluster.options == {"qos": "010", "kill-on-invalid-dep": "yes"}
    with pytest.raises(RequestError, match="exclusive=yes: write true"):
        study(tmp_path, "kind: one-in\ncluster: {options: {exclusive: yes}}")


# What is written is read back -----------------------------------------------------------------------------------------

numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
like_numbers = st.text("0123456789+-_.:eExob", max_size=8) | st.from_regex(
    r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", fullmatch=True
)
words = st.sampled_from(
    [*"yYnN~=", "yes", "No", "ON", "off", "true", "null", "NULL", "<<", "1e-3", "08", "2026-11-25", ""]
)
scalars = st.none() | st.booleans() | numbers | like_numbers | words | st.text(max_size=12)
plain_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner, max_size=3)
)


@given(st.dictionaries(words | like_numbers | st.text(max_size=5), plain_values, max_size=4))
@settings(max_examples=500, deadline=None)
def test_what_is_written_is_read_back_by_both_versions_of_yaml(values: dict[str, Any]) -> None:
    text = as_yaml(values)
    assert yaml.safe_load(text) == values
    assert parse_yaml(text) == values


def texts(values: Any) -> list[str]:
    """Return the texts in a value, keys too."""
    if isinstance(values, dict):
        return [text for item in values.items() for part in item for text in texts(part)]
    return (
        [text for one in values for text in texts(one)]
        if isinstance(values, list)
        else [values] * isinstance(values, str)
    )


@given(st.dictionaries(words | like_numbers | st.text(max_size=5), plain_values, max_size=4))
@settings(max_examples=500, deadline=None)
def test_folders_that_pyyaml_wrote_read_the_same(values: dict[str, Any]) -> None:
    """But for texts that are numbers in YAML 1.2 alone, such as 1e-3: no row, label, dataset or recipe is named so."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not any(isinstance(parse_number_or_text(one), float | int) for one in texts(values)):
        assert parse_yaml(text) == yaml.safe_load(text)


def parse_number_or_text(text: str) -> int | float | str:
    try:
        return parse_number(text)
    except ValueError:
        return text


HOME = Path(__file__).parent.parent
STORED = sorted((HOME / "docs/results").rglob("study.yaml"))


def test_published_studies_and_shipped_files_read_as_they_were_written() -> None:
    assert len(STORED) > 10
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in STORED[:4]:
        values = read_mapping(path)
        assert values == yaml.load(path.read_text(), Loader=loader)
        read = Study.model_validate(values)
        assert Study.model_validate(parse_yaml(as_yaml(read.model_dump(mode="json")))) == read
    for folder, names in (("recipes", recipe_names()), ("studies", study_names())):
        for name in names:
            path = HOME / "ablations/shipped" / folder / f"{name}.yaml"
            assert shipped(folder, name) == yaml.safe_load(path.read_text()) == read_yaml(path, folder)


def test_a_budget_is_a_plain_number() -> None:
    assert read_budget("1e5 images") == (1e5, "images")
    for text in ("05epochs", "٣epochs", "1_0epochs", "0x5epochs"):
        with pytest.raises(RequestError, match="write epochs or images"):
            read_budget(text)


@pytest.mark.parametrize(
    "command",
    [
        *("run one-in --base pocket --dry-run --out", "run one-in --base pocket --dry-run --data-dir"),
        *("run one-in --base pocket --data digits --dry-run --recipe", "train pocket --data digits --recipe"),
        *("train pocket --data digits --out", "report docs/results/first-edition/sweep --to", "report", "status"),
    ],
)
def test_an_empty_value_as_from_an_unset_variable_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*command.split(), ""]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "least"), [("--image-size", 1), ("--in-channels", 1), ("--num-classes", 0)])
def test_a_size_beyond_any_network_is_refused(option: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["count", "pocket", option, "9999999999"]) == 2
    assert f"is not in the range {least}<=x<=100000" in capsys.readouterr().err
