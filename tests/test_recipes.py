"""Any file and any `--set` give a recipe or a one-line error."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe, parse_value, read_yaml, recipe_names, stretched

KEYS = list(TrainingConfig.model_fields)
VALID = {"max_epochs": 2, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def written(folder: Path, contents: str | bytes | dict[str, Any]) -> str:
    """Write a recipe file, and return its name."""
    path = folder / "recipe.yaml"
    if isinstance(contents, dict):
        contents = yaml.safe_dump(contents)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass"))
    return str(path)


def refused(name: str, overrides: dict[str, str] | None = None) -> str:
    """Return the one-line error of a recipe."""
    with pytest.raises(RequestError) as caught:
        load_recipe(name, overrides)
    return one_line(caught.value)


def one_line(error: RequestError) -> str:
    message = str(error)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 1000
    return message


# What comes with the project -----------------------------------------------------------------------------------------


def test_the_names_are_the_files() -> None:
    assert {"quick", "quick_original"} <= set(recipe_names())
    assert recipe_names() == sorted(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded == TrainingConfig.model_validate(loaded.model_dump())
    assert load_recipe(name, {"max_epochs": "3"}) == stretched(loaded, 3.0)
    kept = {"max_epochs": "3", "warmup_epochs": str(loaded.warmup_epochs)}
    if loaded.step_epochs is not None:
        kept["step_epochs"] = str(loaded.step_epochs)
    assert load_recipe(name, kept) == loaded.model_copy(update={"max_epochs": 3.0})


def test_a_recipe_may_be_named_with_settings(folder: Path) -> None:
    found = load_recipe("quick,learning_rate=2e-3, max_epochs = 3")
    assert found == load_recipe("quick", {"learning_rate": "2e-3", "max_epochs": "3"})
    assert load_recipe("quick,learning_rate=2e-3", {"learning_rate": "0.5"}).learning_rate == 0.5
    mine = written(folder, load_recipe("quick_original").model_dump(mode="json"))
    assert load_recipe(f"{mine},momentum=0.5") == load_recipe("quick_original", {"momentum": "0.5"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quick,learning_rate", "recipe quick,learning_rate: 'learning_rate': write key=value, for example"),
        ("quick,", "recipe quick,: '': write key=value"),
        ("quick,=1", "recipe quick,=1: '=1': write key=value"),
        ("quick,max_epochs=1,max_epochs=2", "max_epochs is set twice"),
        ("quick,learning_rat=1", "recipe quick,learning_rat=1: unknown key 'learning_rat': did you mean"),
        ("quick,zzz=1", "recipe quick,zzz=1: unknown key 'zzz': `ablations recipe quick` lists the settings"),
        ("quick,learning_rate=-1", "recipe quick,learning_rate=-1: learning_rate=-1: must be greater than 0"),
        ("quick,betas=[1", "recipe quick,betas=[1: 'betas': '[1' is not a YAML value"),
        ("quik,max_epochs=2", "unknown recipe 'quik' (and no YAML file): did you mean 'quick'?"),
    ],
)
def test_wrong_settings_in_a_recipes_name_are_one_line(name: str, words: str) -> None:
    assert words in refused(name)


def test_an_unknown_recipe_names_the_nearest() -> None:
    assert "unknown recipe 'quik' (and no YAML file): did you mean 'quick'?" in refused("quik")
    assert "known: " in refused("nothing like it")
    refused("")


# Reading a file ------------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_the_defaults_of_its_optimizer_and_schedule(folder: Path) -> None:
    found = load_recipe(written(folder, VALID))
    assert (found.max_epochs, found.batch_size, found.learning_rate) == (2.0, 8, 0.01)
    assert (found.optimizer, found.betas, found.momentum) == ("adamw", (0.9, 0.999), None)
    assert (found.schedule, found.step_epochs, found.step_factor) == ("cosine", None, None)
    found = load_recipe(written(folder, {**VALID, "optimizer": "sgd", "schedule": "step"}))
    assert (found.betas, found.momentum, found.step_epochs, found.step_factor) == (None, 0.9, 30.0, 0.1)
    found = load_recipe(written(folder, {**VALID, "optimizer": "sgd", "momentum": 0.5}))
    assert found.momentum == 0.5


def test_numbers_as_yaml_1_1_takes_for_text_are_numbers(folder: Path) -> None:
    """PyYAML reads 1e-3, without a decimal point, as text."""
    assert load_recipe(written(folder, "max_epochs: 1\nbatch_size: 8\nlearning_rate: 1e-3\n")).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wieght_decay": 0.1}, "unknown key 'wieght_decay': did you mean 'weight_decay'?"),
        ({"lr": 0.1}, "unknown key 'lr': did you mean 'learning_rate'?"),
        ({"max_epochs": "many"}, "max_epochs='many': must be a valid number"),
        ({"max_epochs": [1]}, "max_epochs=[1]: must be a valid number"),
        ({"max_epochs": None}, "max_epochs=None: must be a valid number"),
        ({"max_epochs": True}, "max_epochs: true is not a number"),
        ({"weight_decay": False}, "weight_decay: false is not a number"),
        ({"betas": [True, 0.9]}, "betas.0: true is not a number"),
        ({"crop_padding": True}, "crop_padding: true is not a number"),
        ({"batch_size": 2.5}, "batch_size=2.5: must be a valid integer"),
        ({"horizontal_flip": "perhaps"}, "horizontal_flip='perhaps': must be a valid boolean"),
        ({"optimizer": "SGD"}, "optimizer='SGD': must be 'adamw' or 'sgd'"),
        ({"optimizer": "SGD", "momentum": 0.9}, "optimizer='SGD': must be 'adamw' or 'sgd'"),
        ({"schedule": 3}, "schedule=3: must be 'cosine' or 'step'"),
        ({"init": "xavier"}, "init='xavier': must be 'trunc_normal', 'kaiming' or 'lecun_normal'"),
        ({"max_epochs": 0}, "max_epochs=0: must be greater than 0"),
        ({"batch_size": 1}, "batch_size=1: must be greater than or equal to 2"),
        ({"batch_size": 2**31}, "batch_size=2147483648: must be less than 2147483648"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1: must be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate=inf: must be a finite number"),
        ({"max_epochs": "inf"}, "max_epochs='inf': must be a valid number"),
        ({"max_epochs": ".inf"}, "max_epochs=inf: must be a finite number"),
        ({"weight_decay": -1}, "weight_decay=-1: must be greater than or equal to 0"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1: must be greater than or equal to 0"),
        ({"label_smoothing": 1}, "label_smoothing=1: must be less than 1"),
        ({"drop_path_rate": 1.5}, "drop_path_rate=1.5: must be less than 1"),
        ({"image_size": 0}, "image_size=0: must be greater than or equal to 1"),
        ({"crop_padding": -1}, "crop_padding=-1: must be greater than or equal to 0"),
        ({"betas": [0.9, 1]}, "betas.1=1: must be less than 1"),
        ({"betas": [0.9]}, "betas.1 is missing"),
        ({"betas": 0.9}, "betas=0.9: must be a valid list"),
        ({"checkpoint_seconds": 0}, "checkpoint_seconds=0: must be greater than 0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps=0: must be greater than or equal to 1"),
        ({"optimizer": "sgd", "momentum": 1}, "momentum=1: must be less than 1"),
        ({"schedule": "step", "step_factor": 2}, "step_factor=2: must be less than or equal to 1"),
        ({"schedule": "step", "step_epochs": 0}, "step_epochs=0: must be greater than"),
        ({"momentum": 0.9}, "momentum: only optimizer=sgd uses it, and optimizer is adamw"),
        ({"optimizer": "sgd", "betas": [0.9, 0.9]}, "betas: only optimizer=adamw uses it, and optimizer is sgd"),
        ({"step_epochs": 3}, "step_epochs: only schedule=step uses it, and schedule is cosine"),
        ({"step_factor": 0.5}, "step_factor: only schedule=step uses it, and schedule is cosine"),
        ({3: 4}, "3=3: Keys should be strings"),
    ],
)
def test_a_wrong_value_is_named(folder: Path, changes: dict[str, Any], says: str) -> None:
    name = written(folder, {**VALID, **changes})
    assert refused(name).startswith(f"recipe {name}: {says}")


@pytest.mark.parametrize("key", VALID)
def test_a_missing_required_setting_is_named(folder: Path, key: str) -> None:
    name = written(folder, {other: value for other, value in VALID.items() if other != key})
    assert refused(name) == f"recipe {name}: {key} is missing"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_epochs: 1\nbatch_size: 8\nmax_epochs: 2\n", ", line 3: not YAML (the key 'max_epochs' is set twice)"),
        ('"a\\n\\e": 1\n"a\\n\\e": 1\n', ", line 2: not YAML (the key 'a\\n\\x1b' is set twice)"),
        ("max_epochs: 1\nbatch_size: {a: 1, a: 2}\n", ", line 2: not YAML (the key 'a' is set twice)"),
        ("max_epochs: 1\nbatch_size: [8\n", ", line 3: not YAML ("),
        ("max_epochs: 1\nbatch_size: 8: 9\n", ", line 2: not YAML (mapping values are not allowed here)"),
        ("max_epochs: 1\n\tbatch_size: 8\n", ", line 2: not YAML (found character '\\t'"),
        ("a: !!python/object/apply:os.system [ls]\n", ", line 1: not YAML (could not determine a constructor"),
        ("a: *nothing\n", ", line 1: not YAML (found undefined alias 'nothing')"),
        ("- 1\n- 2\n", ": must contain keys and values"),
        ("just words\n", ": must contain keys and values"),
        ("", ": must contain keys and values"),
        ("# nothing\n", ": must contain keys and values"),
        ("a: 1\n---\nb: 1\n", ", line 2: not YAML (but found another document)"),
        ("a: 2000-13-45\n", ": unknown key 'a'"),
        ("a: !!bool maybe\n", ", line 1: not YAML ('maybe': must be true or false)"),
        ("a: !!timestamp maybe\n", ", line 1: not YAML (could not determine a constructor"),
        ("a: !!int ''\n", ", line 1: not YAML ('': must be a number)"),
        ("!!map words\n", ", line 1: not YAML (expected a mapping node"),
        ("? [a, list]\n: 1\n", ", line 1: not YAML (found unhashable key)"),
        ("? {a: map}\n: 1\n", ", line 1: not YAML (found unhashable key)"),
        ("a: " + "[" * 5000, ": not YAML (maximum recursion depth exceeded"),
        (b"\xff\xfe\x00", ": not YAML ('utf-8' codec can't decode"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ": not YAML ('utf-8' codec can't decode"),
        (b"a: \x00\n", ": not YAML ("),
        ("a: 1\nb: \x07\n", ": not YAML ("),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(folder: Path, text: str | bytes, says: str) -> None:
    name = written(folder, text)
    assert refused(name).startswith(f"recipe {name}{says}")


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "-0x" + "f" * 5000, "9" * 5000, "1" + "_0" * 400])
@pytest.mark.parametrize("key", ["batch_size", "learning_rate", "image_size", "betas"])
def test_numbers_without_end_are_one_line(folder: Path, key: str, number: str) -> None:
    lines = {**VALID, key: number}
    name = written(folder, "".join(f"{name}: {value}\n" for name, value in lines.items()))
    assert refused(name).startswith((f"recipe {name}: ", f"recipe {name}, line "))
    refused("quick", {key: number})


def test_aliases_that_grow_without_end_are_one_line(folder: Path) -> None:
    """Expanded, these would be nine to the ninth power of words."""
    lists = [f"  - &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]" for level in range(9)]
    text = "\n".join(["max_epochs:", "  - &a [x]", *lists, "batch_size: 8", "learning_rate: 0.1"])
    name = written(folder, text)
    assert refused(name).startswith(f"recipe {name}: max_epochs=[")
    assert "max_epochs=[" in refused(written(folder, "batch_size: 8\nlearning_rate: 0.1\nmax_epochs: &a [*a]\n"))


def test_what_cannot_be_read_is_one_line(folder: Path) -> None:
    assert refused(f"{folder}/none.yaml") == f"recipe {folder}/none.yaml: no such file"
    (folder / "folder.yaml").mkdir()
    assert refused(f"{folder}/folder.yaml") == f"recipe {folder}/folder.yaml: cannot be read (Is a directory)"
    assert "cannot be read (Not a directory)" in refused(f"{written(folder, '')}/x.yml")
    assert "cannot be read (File name too long)" in refused("x" * 300 + ".yaml")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    assert refused(f"{folder}/loop.yaml").startswith(f"recipe {folder}/loop.yaml: ")


def test_read_yaml_names_the_file(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"study .*none\.yaml: no such file"):
        read_yaml(folder / "none.yaml", "study")
    assert read_yaml(Path(written(folder, "<<: {a: 1}\nb: 2\n")), "study") == {"a": 1, "b": 2}


# --set ---------------------------------------------------------------------------------------------------------------


def test_set_overrides_the_recipe() -> None:
    changes = {"max_epochs": "0.5", "betas": "[0.8, 0.9]", "horizontal_flip": "off", "image_size": "null"}
    found = load_recipe("quick", changes)
    assert (found.max_epochs, found.betas, found.horizontal_flip, found.image_size) == (0.5, (0.8, 0.9), False, None)
    whole = stretched(load_recipe("quick"), 0.5).model_dump()
    rest = {key: value for key, value in whole.items() if key not in changes}
    assert {key: value for key, value in found.model_dump().items() if key not in changes} == rest
    assert load_recipe("quick", {"learning_rate": "1e-3"}).learning_rate == 1e-3
    assert load_recipe("quick", {"optimizer": "sgd"}).momentum == 0.9


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("learing_rate", "1", "recipe quick: unknown key 'learing_rate': did you mean 'learning_rate'?"),
        ("", "1", "recipe quick: unknown key ''"),
        ("a\nb", "1", "recipe quick: unknown key 'a\\nb'"),
        ("learning_rate", "", "recipe quick: learning_rate=None: must be a valid number"),
        ("learning_rate", "fast", "recipe quick: learning_rate='fast': must be a valid number"),
        ("learning_rate", "0", "recipe quick: learning_rate=0: must be greater than 0"),
        ("learning_rate", "[", "--set 'learning_rate': '[' is not a YAML value"),
        ("learning_rate", "a: b: c", "--set 'learning_rate': 'a: b: c' is not a YAML value"),
        ("learning_rate", "2000-13-45", "recipe quick: learning_rate='2000-13-45': must be a valid number"),
        ("learning_rate", "!!bool x", "--set 'learning_rate': '!!bool x' is not a YAML value"),
        ("momentum", "0.9", "recipe quick: momentum: only optimizer=sgd uses it, and optimizer is adamw"),
        ("optimizer", "adam", "recipe quick: optimizer='adam': must be 'adamw' or 'sgd'"),
    ],
)
def test_a_wrong_set_is_one_line(key: str, text: str, says: str) -> None:
    assert refused("quick", {key: text}).startswith(says)


# Anything at all -----------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(0, 1),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["sgd", "adamw", "step", "cosine", "kaiming", "1e-3", "0.5", "nan", "inf", "-1", "yes"]),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(timezones=st.none() | st.just(datetime.UTC)),
    st.floats(0, 1).map(str),
)
keys = st.sampled_from(KEYS) | st.sampled_from(KEYS).map(lambda key: key[:-1]) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | scalars, inner, max_size=3),
    max_leaves=4,
)


def loads_or_refuses(name: str, overrides: dict[str, str] | None = None) -> TrainingConfig | None:
    try:
        found = load_recipe(name, overrides)
    except RequestError as error:
        one_line(error)
        return None
    assert isinstance(found, TrainingConfig)
    return found


def is_kept(config: TrainingConfig) -> None:
    """Check that it round-trips through JSON and YAML, as run folders store it."""
    plain = config.model_dump(mode="json")
    assert TrainingConfig.model_validate(json.loads(json.dumps(plain))) == config
    assert TrainingConfig.model_validate(yaml.safe_load(yaml.safe_dump(plain))) == config


@given(st.dictionaries(keys | scalars, values, max_size=4), st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_values_give_a_recipe_or_one_line(folder: Path, changes: dict[Any, Any], over: bool) -> None:
    found = loads_or_refuses(written(folder, {**VALID, **changes} if over else changes))
    if found:
        is_kept(found)
        assert over or VALID.keys() <= changes.keys()
        assert set(changes) <= set(KEYS)


YAML_WORDS = [
    *KEYS, "max_epochs: 1\n", "batch_size: 8\n", "learning_rate: 0.1\n", ": ", "\n", "- ", "  ", "[", "]", "{", "}",
    ",", "&a ", "*a", "!!", "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!set ", "!!omap ", "!!pairs ",
    "!!binary ", "!!map ", "!!seq ", "!!str ", "!!null ", "!!merge ", "!x ", "<<", "=", "? ", "| ", "> ", "---\n",
    "...\n", "%YAML 1.1\n", "%TAG ! x\n", "#", "'", '"', "\\", "\\ud800", "\t", "~", "0x", "0b", "0o", "1:2", ".nan",
    ".inf", "1_0", "2000-01-01", "2000-99-99", "\x00", "\ud800", "\u2028", "\x85", "\ufeff", "é", "1", "0", "9" * 30,
]  # fmt: skip
yaml_texts = st.lists(st.sampled_from(YAML_WORDS) | st.text(max_size=3), max_size=12).map("".join)


@given(yaml_texts | st.text(max_size=30) | st.binary(max_size=30), st.booleans())
@settings(max_examples=500, deadline=None)
@example("a: !!bool x", False)
@example("? !!set {a}\n: 1", True)
@example('"\\ud800": 1', True)
@example('optimizer: "\\ud800"', True)
def test_any_file_gives_a_recipe_or_one_line(folder: Path, contents: str | bytes, over: bool) -> None:
    data = contents if isinstance(contents, bytes) else contents.encode("utf-8", "surrogatepass")
    found = loads_or_refuses(written(folder, (yaml.safe_dump(VALID).encode() if over else b"") + data))
    if found:
        is_kept(found)


@given(st.dictionaries(keys, yaml_texts | scalars.map(str), min_size=1, max_size=2), st.sampled_from(recipe_names()))
@settings(max_examples=400, deadline=None)
@example({"learning_rate": "[" * 3000}, "quick")
def test_any_set_gives_a_recipe_or_one_line(overrides: dict[str, str], name: str) -> None:
    found = loads_or_refuses(name, overrides)
    if found:
        is_kept(found)


# The configuration in Python -----------------------------------------------------------------------------------------


def test_in_python_it_is_pydantics() -> None:
    found = TrainingConfig(max_epochs=100, batch_size=128, learning_rate=4e-3, weight_decay=0.05)
    assert (found.optimizer, found.schedule, found.weight_decay) == ("adamw", "cosine", 0.05)
    with pytest.raises(ValidationError, match="frozen"):
        found.max_epochs = 3
    with pytest.raises(ValidationError, match="momentum: only optimizer=sgd"):
        TrainingConfig(max_epochs=100, batch_size=128, learning_rate=4e-3, momentum=0.9)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_round_trips_through_a_run_folder(name: str, folder: Path) -> None:
    for overrides in ({}, {"optimizer": "sgd", "betas": "null"}, {"schedule": "step"}, {"image_size": "null"}):
        if name == "quick" or not overrides:
            config = load_recipe(name, overrides)
            is_kept(config)
            assert load_recipe(written(folder, config.model_dump(mode="json"))) == config


def test_parse_value_is_yamls() -> None:
    found = [parse_value(text, "here") for text in ("1", "0.5", "off", "[1, 2]", "a b", "null", "")]
    assert found == [1, 0.5, "off", [1, 2], "a b", None, None]
    with pytest.raises(RequestError, match=r"^here: '\[1' is not a YAML value$"):
        parse_value("[1", "here")
