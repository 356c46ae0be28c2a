"""A function in a user's file is found, called with settings, and its failures are one line with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from modernize.user_code import Call, UserCodeError, call_function, function_of, is_call, read_call

SOURCE = """\
from neighbor import VALUE

def shapes(size=32, *, kind="a"):
    if size < 0:
        raise ValueError("negative\\nsize")
    return size, kind, VALUE

def _hidden():
    pass
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbor.py").write_text("VALUE = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def fault(name: str) -> str:
    with pytest.raises(UserCodeError) as caught:
        call_function(read_call(name))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_settings_are_read_as_yaml_and_brackets_keep_commas() -> None:
    assert read_call("a/b.py:f") == Call(Path("a/b.py"), "f")
    assert read_call("b.py:f()") == Call(Path("b.py"), "f")
    assert read_call("b.py:f(x=1, y=[1,2], z=1e-3,w=gray)").settings == {"x": 1, "y": [1, 2], "z": 1e-3, "w": "gray"}
    assert [is_call(name) for name in ("a.py:f", "a.py:f(x=b)", "digits", "torchvision:X", "hf:a(label=b.py:c)")] == [
        *(True, True),
        *(False, False, False),
    ]


def test_a_function_is_called_with_its_settings_and_sees_the_files_beside_it(file: Path) -> None:
    assert call_function(read_call(f"{file}:shapes(size=8,kind=b)")) == (8, "b", 7)
    assert call_function(read_call(f"{file}:shapes")) == (32, "a", 7)
    file.write_text(SOURCE.replace("32", "64"))
    assert call_function(read_call(f"{file}:shapes")) == (64, "a", 7), "a changed file is read again"


def test_every_failure_is_one_line_with_the_place(file: Path) -> None:
    assert fault(f"{file}:shapes(size=-1)") == f"{file}, line 5, in shapes: ValueError: negative size"
    assert f"{file} has no function 'shape': did you mean 'shapes'?" == fault(f"{file}:shape")
    assert f"{file}:shapes has no setting 'sise': did you mean 'size'?" == fault(f"{file}:shapes(sise=3)")
    assert "'32' is no setting; write setting=value" in fault(f"{file}:shapes(32)")
    assert "size is set twice" in fault(f"{file}:shapes(size=1,size=2)")
    assert "write FILE.py:FUNCTION" in fault(f"{file}:")
    assert "write FILE.py:FUNCTION" in fault(f"{file}:a.b(x=1)")
    assert "no such file" in fault(f"{file.parent}/other.py:shapes")
    (file.parent / "folder.py").mkdir()
    assert "cannot be read" in fault(f"{file.parent}/folder.py:shapes")
    for text, words in {
        "x = (\n": "line 1: SyntaxError",
        "\nimport nothing_like_this\n": "line 2: ModuleNotFoundError",
        "x = 1\n": "has no function 'f': it defines no functions",
        "def f():\n    raise SystemExit(3)\n": "line 2, in f: SystemExit: 3",
        "def f():\n    return g()\ndef g():\n    return {}['a']\n": "line 4, in g: KeyError: 'a'",
    }.items():
        file.write_text(text)
        message = fault(f"{file}:f")
        assert message.startswith(str(file)) and words in message


def test_files_beside_are_those_of_the_file_s_folder_and_content(file: Path, tmp_path: Path) -> None:
    """Also if another folder has a file of the same name, or the function imports it when it is called."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "neighbor.py").write_text("VALUE = 8\n")
    (other / "mine.py").write_text(SOURCE)
    late = "def late():\n    from neighbor import VALUE\n    return VALUE\n"
    (file.parent / "late.py").write_text(late)
    (other / "late.py").write_text(late)
    for _ in range(2):
        assert call_function(read_call(f"{file}:shapes"))[2] == 7
        assert call_function(read_call(f"{other}/late.py:late")) == 8
        assert call_function(read_call(f"{file.parent}/late.py:late")) == 7
        assert call_function(read_call(f"{other}/mine.py:shapes"))[2] == 8
    (file.parent / "neighbor.py").write_text("VALUE = 9.5\n")
    assert call_function(read_call(f"{file}:shapes"))[2] == 9.5
    assert call_function(read_call(f"{file.parent}/late.py:late")) == 9.5


def test_what_a_user_s_code_prints_does_not_mix_with_a_command_s_output(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("print(1)\ndef f():\n    print(2)\n    return 3\n")
    assert call_function(read_call(f"{file}:f")) == 3
    assert capsys.readouterr() == ("", "1\n2\n")


def test_a_file_is_run_once_per_content(file: Path) -> None:
    call = read_call(f"{file}:shapes")
    assert function_of(call) is function_of(call)
