"""Flags of plugins: what they change, what is refused, and that every command and study knows them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from commands import ablations_here
from hypothesis import HealthCheck, given, settings
from peers import peer
from random_designs import Case, cases

import ablations
import modernize
from ablations.launch.in_process import train_one
from ablations.studies.folder import open_folder, read_study
from ablations.studies.load import load_study
from ablations.studies.results import study_runs
from modernize import DesignError
from modernize.network import Network
from modernize.plan import compile_plan, total_cost, trace
from modernize.plugins import load_installed_plugins, load_plugin, plugins, unload_plugin
from reports.diagrams import diagram, difference
from reports.page import explorer

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
SHOWN = {
    name: code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for name in re.findall(r"\A# (\w+\.py)", code)
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the page's plugins."""
    for name, code in SHOWN.items():
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
def loaded(files: Path) -> Path:
    for name in SHOWN:
        load_plugin(files / name)
    return files


@pytest.fixture
def random_flags(files: Path) -> None:
    """The plugins of --plugin, or the page's, in random designs."""
    for name in SHOWN if not plugins() else ():
        load_plugin(files / name)


# ---- the page's two plugins


def test_each_plugin_of_the_page_has_fewer_than_40_lines() -> None:
    assert set(SHOWN) == {"squeeze.py", "blur.py"}
    for code in SHOWN.values():
        assert sum(bool(line.strip()) for line in code.splitlines()) < 40


@pytest.mark.parametrize(("name", "theirs"), [("se=16", "seresnet50"), ("blur=on", "resnetblur50")])
def test_the_pages_flags_count_what_timms_networks_count(loaded: Path, name: str, theirs: str) -> None:
    assert modernize.count(f"resnet50,{name}", 64) == modernize.count(f"timm:{theirs}", 64)


def test_blurpool_gives_the_outputs_of_timms(loaded: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnetblur50", layers=[1, 2, 1, 1], num_classes=5).eval()
    plain = modernize.build("resnet50,depths=1-2-1-1", num_classes=5)
    modernize.load_weights(plain, theirs.state_dict())
    ours = modernize.build("resnet50,depths=1-2-1-1,blur=on", num_classes=5).eval()
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_squeeze_and_excitation_gives_the_outputs_of_timms(loaded: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("seresnet50", layers=[1, 1, 1, 1], num_classes=5).eval()
    ours = modernize.build("resnet50,depths=1-1-1-1,se=16", num_classes=5).eval()
    gates = {key: value for key, value in theirs.state_dict().items() if ".se." in key}
    plain = modernize.build("resnet50,depths=1-1-1-1", num_classes=5)
    modernize.load_weights(plain, {key: value for key, value in theirs.state_dict().items() if key not in gates})
    renamed = {
        re.sub(r"layer(\d)\.(\d+)\.se\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.residual.se.", key): value
        for key, value in gates.items()
    }
    ours.load_state_dict(plain.state_dict() | renamed)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


# ---- any design with them


@given(case=cases())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_designs_with_flags_of_plugins_count_alike_and_train(random_flags: None, case: Case) -> None:
    design, size, channels, classes = case
    try:
        steps = trace(compile_plan(design, channels, classes), size)
    except DesignError as error:
        assert "reflect" in str(error) or "Padding size" in str(error)  # a blur of one pixel
        return
    counted = modernize.count(design, size, channels, classes)
    assert total_cost(steps) == counted
    torch.manual_seed(0)
    network = modernize.build(design, classes, channels)
    images = torch.randn(2, channels, size, size)
    network(images).square().sum().backward()
    assert all(weights.grad is not None for weights in network.parameters())
    torch.testing.assert_close(network.eval()(images), peer(network)(images))
    assert diagram(network.plan, "random")
    assert design == modernize.Design().with_flags(json.loads(json.dumps(design.flags())))


def test_plans_do_not_depend_on_the_order_of_loading(files: Path) -> None:
    plans = []
    for order in (("squeeze.py", "blur.py"), ("blur.py", "squeeze.py")):
        own = [load_plugin(files / name) for name in order]
        plans.append([repr(step) for step in trace(compile_plan(modernize.design("pocket,blur=on,se=4"), 1, 10), 32)])
        for one in own:
            unload_plugin(one)
    assert plans[0] == plans[1]


def test_designs_are_the_same_whether_a_plugin_is_loaded_or_not(files: Path) -> None:
    before = modernize.design("pocket@kernel-7")
    flags = before.flags()
    load_plugin(files / "squeeze.py")
    assert modernize.design("pocket@kernel-7,se=off") == before
    assert modernize.design("pocket@kernel-7").flags() == flags
    assert modernize.design("pocket,se=4").differences(modernize.design("pocket")) == {"se": 4}
    assert modernize.design("pocket").differences(modernize.design("pocket,se=4")) == {"se": False}


def test_feature_maps_and_state_dicts_know_new_layers(loaded: Path) -> None:
    network = modernize.build("pocket,blur=on,se=4", 10, 1).eval()
    maps = modernize.features(network)
    plain = modernize.features(modernize.build("pocket", 10, 1))
    assert (maps.strides, maps.channels) == (plain.strides, plain.channels)
    assert [found.shape[1:] for found in maps(torch.rand(1, 1, 32, 32)).values()] == [
        (channels, 32 // stride, 32 // stride) for channels, stride in zip(maps.channels, maps.strides, strict=True)
    ]
    copy = modernize.build("pocket,blur=on,se=4", 10, 1).eval()
    modernize.load_weights(copy, modernize.export_weights(network, "native"))
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(copy(images), network(images))
    with pytest.raises(modernize.WeightsError, match=r"se=16 \(needs off\)"):
        modernize.export_weights(modernize.build("resnet50,se=16"), "torchvision")


# ---- what is refused, in one line

LAYER = """
from dataclasses import dataclass, replace
from torch import nn
from modernize import Flag
from modernize.layers import Conv, CustomLayer, Linear
@dataclass(frozen=True)
class Mine(CustomLayer):
    params = property(lambda self: {params})
    def macs(self, size): return {macs}
    def out_size(self, size): return {out}
    def module(self): return {module}
def add(block, value): return replace(block, residual=(*block.residual, Mine("mine", {channels})))
FLAGS = [Flag("mine", "a layer", (False, True), block=add)]
"""
RIGHT = {
    "params": "self.in_channels**2 + self.in_channels",
    "macs": "self.in_channels**2 * size.pixels",
    "out": "size",
    "module": "nn.Conv2d(self.in_channels, self.out_channels, 1)",
    "channels": "block.residual[-1].in_and_out[1], block.residual[-1].in_and_out[1]",
}
LAYERS = {
    "parameters": (
        {"params": "7"},
        r"layer mine \(Mine\): the layer says 7 parameters for 48×16 px, and its module has 2,352",
    ),
    "MACs": ({"macs": "0"}, r"the layer says 0 MACs for 48×16 px, and its module has 589,824"),
    "output": ({"out": "(1, 1)"}, r"the layer says 1 output for 48×16 px, and its module has 16"),
    "channels": (
        {"channels": "48, 12"},
        r"mine=on \(plugin.py\): stages.0.blocks.0: the residual branch ends with 12 channels",
    ),
    "no channels": (
        {"channels": "3, 48"},
        r"stages.0.blocks.0.residual.mine \(mine 3→48\) takes 3 channels and is given 48",
    ),
    "module": ({"module": "None"}, r"layer mine \(Mine\): module\(\) must return a torch.nn.Module, not NoneType"),
    "a list": ({"channels": "48, [48]"}, r"mine=on \(plugin.py\): stages.0.blocks.0.residual.mine .* use a tuple"),
    "raises": ({"module": "1 / 0"}, r"layer mine \(Mine\): \S*plugin.py, line 11, in module: ZeroDivisionError"),
    "stride": (
        {"module": "nn.Conv2d(48, 48, 1, 2)", "out": "(size.height // 2, size.width // 2)", "macs": "48**2 * 64"},
        r"mine=on \(plugin.py\): stages.0.blocks.0: the residual branch ends with 8 px and the shortcut with 16 px",
    ),
}
FLAG = "from modernize import Flag\ndef same(part, value): return {returned}\nFLAGS = [Flag({arguments})]\n"
FLAGS = {
    "syntax": ("FLAGS = [", r"plugin plugin.py, line 1: SyntaxError"),
    "raises": ("FLAGS = []\n1 / 0", r"plugin plugin.py, line 2: ZeroDivisionError"),
    "none": ("x = 1", r"plugin plugin.py: needs FLAGS, a list of modernize.Flag"),
    "empty": ("FLAGS = []", r"plugin plugin.py: needs FLAGS, a list of modernize.Flag"),
    "no flag": ("FLAGS = ['se']", r"plugin plugin.py: needs FLAGS, a list of modernize.Flag"),
    "built in": (("'norm', 'x', (False, True), block=same",), r"flag norm is the name of a built-in flag; rename it"),
    "name": (
        ("'My flag', 'x', (False, True), block=same",),
        r"flag My flag: a name has lower-case letters, digits and _",
    ),
    "taken": (("'flags', 'x', (False, True), block=same",), r"flag flags: the name is taken; rename it"),
    "recipe": (("'recipe', 'x', (False, True), block=same",), r"flag recipe: the name is taken; rename it"),
    "meaning": (("'mine', '', (False, True), block=same",), r"flag mine: meaning: say in one line what it sets"),
    "one value": (("'mine', 'x', (False,), block=same",), r"flag mine: values: give a tuple of at least two"),
    "a list": (("'mine', 'x', [False, True], block=same",), r"flag mine: values: give a tuple of at least two"),
    "alike": (
        ("'mine', 'x', (False, 'off'), block=same",),
        r"flag mine: values: off reads as False, which is another value",
    ),
    "a comma": (
        ("'mine', 'x', ('a', 'b,c'), block=same",),
        r"flag mine: values: 'b,c': letters, digits and . \+ - _ only",
    ),
    "nothing": (
        ("'mine', 'x', (False, True)",),
        r"flag mine: changes nothing: give a function for stem, block or network",
    ),
    "returns": (
        ("'mine', 'x', (False, True), block=same", "None"),
        r"mine=on \(plugin.py\): same must return a BlockPlan, not None",
    ),
    "fails": (
        ("'mine', 'x', (False, True), block=same", "part.none"),
        r"mine=on: \S*plugin.py, line 2, in same: AttributeError",
    ),
    "stem": (
        ("'mine', 'x', (False, True), stem=same", "part[1:]"),
        r"stem.norm \(BatchNorm 12\) takes 12 channels and is given 1",
    ),
    "twice": (("'mine', 'x', (False, True), stem=same", "part + part[1:]"), r"stem has two layers named 'norm'"),
    "layer": (("'mine', 'x', (False, True), stem=same", "(*part, 'conv')"), r"stem holds a str, which is no layer"),
}


def refused(folder: Path, code: str, *arguments: str) -> str:
    (folder / "plugin.py").write_text(code)
    done = ablations_here(*(arguments or ("count", "pocket,mine=on")), "--plugin", "plugin.py", cwd=folder)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("ablations: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(("code", "words"), FLAGS.values(), ids=FLAGS)
def test_an_invalid_plugin_gets_one_line(tmp_path: Path, code: str | tuple[str, ...], words: str) -> None:
    if isinstance(code, tuple):
        code = FLAG.format(arguments=code[0], returned=code[1] if code[1:] else "part")
    assert re.search(words, refused(tmp_path, code))


@pytest.mark.parametrize(("changed", "words"), LAYERS.values(), ids=LAYERS)
def test_a_layer_that_does_not_say_what_its_module_does_is_refused(
    tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    assert re.search(words, refused(tmp_path, LAYER.format(**{**RIGHT, **changed})))


def test_the_same_layer_that_says_it_is_counted(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(LAYER.format(**RIGHT))
    load_plugin(tmp_path / "plugin.py")
    assert modernize.count("pocket,mine=on", 32, 1, 10).params > modernize.count("pocket", 32, 1, 10).params


@pytest.mark.parametrize(
    "module",
    [
        "nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * c, 4 * c, 1, groups=4 * c), nn.PixelShuffle(2))",
        "nn.Sequential(nn.Unflatten(1, (2, -1)), nn.Flatten(1, 2), nn.Conv2d(c, c, 1, groups=c))",
    ],
)
def test_layers_that_need_an_image_are_counted(tmp_path: Path, module: str) -> None:
    said = {"params": "nn_params(self.module())", "macs": "size.pixels * self.in_channels", "module": module}
    code = LAYER.format(**{**RIGHT, **said}).replace("return nn.", "c = self.in_channels; return nn.")
    (tmp_path / "plugin.py").write_text(
        code + "def nn_params(module): return sum(w.numel() for w in module.parameters())"
    )
    load_plugin(tmp_path / "plugin.py")
    traced = trace(compile_plan(modernize.models.as_design("pocket,mine=on"), 1, 10), 32)
    assert modernize.count("pocket,mine=on", 32, 1, 10) == total_cost(traced)


def test_wrong_values_missing_files_and_two_plugins_of_one_flag_get_one_line(files: Path) -> None:
    for arguments, words in {
        ("count", "pocket,se=5", "--plugin", "squeeze.py"): "se=5: must be one of off, 4, 16",
        ("count", "pocket,se=4", "--plugin", "other.py"): "plugin other.py: no such file",
        ("count", "pocket,se=4"): "unknown flag 'se'",
        ("run", "sweep", "--base", "pocket", "--flags", "se=off:4"): "flags: unknown flag 'se'",
    }.items():
        done = ablations_here(*arguments, cwd=files)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert words in done.stderr
        for one in plugins():
            unload_plugin(one)
    (files / "again.py").write_text(SHOWN["squeeze.py"] + "# changed\n")
    done = ablations_here("count", "pocket", "--plugin", "squeeze.py", "--plugin", "again.py", cwd=files)
    assert "plugin again.py: flag se is the name of the plugin " in done.stderr


def test_functions_import_the_files_beside_their_own_plugin(tmp_path: Path) -> None:
    code = """
from dataclasses import replace
from modernize import Flag
def widen(stem, value):
    from beside import BIAS
    return tuple(replace(layer, bias=BIAS) if layer.name == "conv" else layer for layer in stem)
FLAGS = [Flag("{name}", "a bias", (False, True), stem=widen)]
"""
    for name, bias in (("first", True), ("second", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plugin.py").write_text(code.replace("{name}", name))
        (tmp_path / name / "beside.py").write_text(f"BIAS = {bias}\n")
        load_plugin(tmp_path / name / "plugin.py")
    for _ in range(2):
        for name, bias in (("first", True), ("second", False)):
            assert compile_plan(modernize.design(f"pocket,{name}=on")).stem[0].bias is bias  # type: ignore[union-attr]


# ---- studies, reports and folders


def test_a_study_keeps_its_plugins_and_refuses_others(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    keys = {"kind": "one-in", "plugins": ["squeeze.py"], "base": "pocket,width=4", "data": "digits", "seeds": [0]}
    (files / "mine.yaml").write_text(yaml.safe_dump(keys | {"flags": {"se": [4], "norm": ["ln"]}}))
    study = load_study("mine.yaml", {}, {"max_epochs": "0.1"})
    assert [Path(one.name).name for one in study.plugins] == ["squeeze.py"]
    open_folder(study, Path("study"))
    assert next((files / "study/code/plugins").glob("*/squeeze.py")).read_text() == SHOWN["squeeze.py"]
    run = next(one for one in study.runs if one.row == "with-se")
    assert train_one(run, files / "study/runs" / run.name, Path("data"), device="cpu", threads=1) == 0
    for one in plugins():
        unload_plugin(one)
    (files / "squeeze.py").unlink()  # as for a colleague
    again = read_study(Path("study"))
    assert set(study_runs(again, Path("study")).loc[lambda runs: runs["status"] == "done", "row"]) == {"with-se"}
    network = ablations.load_run(files / "study/runs" / run.name)
    assert isinstance(network, Network)
    assert network.plan.design.se == 4
    packed = ablations_here("pack", "study", cwd=files)
    assert packed.returncode == 0, packed.stderr
    for one in plugins():
        unload_plugin(one)
    (files / "squeeze.py").write_text(SHOWN["squeeze.py"].replace("sigmoid", "tanh"))
    changed = ablations_here("run", "mine.yaml", "--set", "max_epochs=0.1", "--out", "study", cwd=files)
    assert changed.returncode == 2
    assert re.search(
        r"study: \S+squeeze.py has changed since the folder was made \(sha256 \w{12}, now \w{12}\)", changed.stderr
    )


def test_plugins_whose_files_have_equal_names_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.py").write_text(LAYER.format(**RIGHT).replace("mine", name) + "import beside")
        (tmp_path / name / "beside.py").write_text(f"NAME = {name!r}")
        load_plugin(f"{name}/flags.py")
    study = load_study("designs", {"designs": ["pocket", "pocket,a=on", "pocket,b=on"], "data": "digits"}, {})
    open_folder(study, Path("study"))
    open_folder(study, Path("study"))  # resumes
    for one in plugins():
        unload_plugin(one)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    again = read_study(Path("study"))
    assert [one.sha256 for one in again.plugins] == [one.sha256 for one in study.plugins]
    assert [again.runs[at].design.added for at in (1, 2)] == [(("a", True),), (("b", True),)]


def test_a_block_that_a_flag_changes_in_one_stage_alone_is_drawn(tmp_path: Path) -> None:
    last = """
def last(plan, value):
    changed = replace(plan.stages[-1], blocks=tuple(add(block, value) for block in plan.stages[-1].blocks))
    return replace(plan, stages=(*plan.stages[:-1], changed))
FLAGS ="""
    code = LAYER.format(**RIGHT).replace("block=add", "network=last").replace("\nFLAGS =", last)
    (tmp_path / "plugin.py").write_text(code)
    load_plugin(tmp_path / "plugin.py")
    drawn = diagram(compile_plan(modernize.design("pocket,mine=on"), 1, 10), "mine")
    assert "mine 384" in drawn
    assert "stage 4, block 1" in drawn
    assert "stages 2 to 4" not in drawn
    plans = [compile_plan(modernize.design(name), 1, 10) for name in ("pocket", "pocket,mine=on")]
    compared = difference(plans[0], plans[1], ("before", "after"))
    assert "mine 384" in compared
    assert "stages 2 to 4" not in compared


def test_the_explorer_counts_and_draws_the_flag(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_BODIES", 1)
    names = ("pocket", "pocket,se=4", "pocket,se=16", "pocket,se=4,blur=on")
    designs = [modernize.design(name) for name in names]
    space, _ = explorer.make_space(modernize.roadmap("pocket"), designs[:1])
    space = {flag: values if flag in ("se", "blur") else values[:1] for flag, values in space.items()}
    space |= {flag: [getattr(designs[0], flag)] for flag in space if flag not in ("se", "blur")}
    tables = explorer.tabulate(space, explorer.Images(32, 1, 10))
    for name, design in zip(names, designs, strict=True):
        for what in ("params", "macs"):
            table, chosen = tables[what], explorer.choice(space, design)
            at = sum(one * stride for one, stride in zip(chosen, table["strides"], strict=True))
            assert table["data"][at] == getattr(modernize.count(name, 32, 1, 10), what)
    assert "squeeze excitation 48" in tables["words"]


def test_an_installed_package_brings_flags_by_its_entry_point(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "my_package.py").write_text(SHOWN["squeeze.py"])
    (files / "my_package-1.dist-info").mkdir()
    (files / "my_package-1.dist-info/METADATA").write_text("Name: my-package\nVersion: 1\n")
    (files / "my_package-1.dist-info/entry_points.txt").write_text("[modernize.plugins]\nmine = my_package\n")
    monkeypatch.syspath_prepend(files)
    assert [one.name for one in load_installed_plugins()] == ["my_package"]
    done = ablations_here("count", "pocket,se=4", "--image-size", "32", cwd=files)
    assert done.returncode == 0, done.stderr
    assert "460,906" in done.stdout
    study = load_study("one-in", {"base": "pocket", "flags": {"se": [4]}, "data": "digits"}, {})
    assert [one.name for one in study.plugins] == ["my_package"]
    assert yaml.safe_load(study.model_dump_json())["plugins"][0]["name"] == "my_package"
