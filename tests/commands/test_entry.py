"""``hocp``: the table of commands, how it answers, what a shell completes, and what the codes at the end say."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from hocp_mm import __version__
from hocp_mm.commands import entry
from hocp_mm.errors import HOCPError, MissingDataError, SomeFailedError
from hocp_mm.launch.config import find_config, load_config
from hocp_mm.system import cli
from tests.material.processes import ROOT, run_python

HERE = Path(entry.__file__).parent


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Return the exit code and what was printed."""
    with pytest.raises(SystemExit) as caught:
        entry.main(words)
    return caught.value.code, *capsys.readouterr()


def test_every_file_of_the_room_is_a_command_with_options_of_its_own():
    files = {path.relative_to(HERE).with_suffix("").as_posix().replace("/", " ") for path in HERE.rglob("*.py")}
    others = {"entry", "options", "__init__", "__main__", "prepare __init__"}
    assert files - others == set(entry.COMMANDS)
    for name in entry.COMMANDS:
        assert isinstance(entry.load(name).make_parser(), argparse.ArgumentParser)


def test_every_script_of_tools_leads_to_a_command():
    doors = [path for path in (ROOT / "tools").rglob("*.py") if "door to" in path.read_text(encoding="utf-8")]
    led = {
        line
        for path in doors
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("from hocp_mm.commands")
    }
    commands = {f"from hocp_mm.commands.{name.replace(' ', '.')} import main" for name in entry.COMMANDS}
    assert len(led) == len(doors) >= 18
    assert led <= commands


def test_help_names_all_commands_and_all_codes(capsys: pytest.CaptureFixture[str]):
    code, out, _ = answer(["--help"], capsys)
    assert code == 0
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert {name.partition(" ")[0] for name in entry.COMMANDS} <= set(rows)
    assert {str(code) for code in cli.EXIT_CODES} <= set(rows)
    assert answer(["--version"], capsys)[:2] == (0, f"hocp_mm {__version__}\n")
    code, out, _ = answer(["prepare", "--help"], capsys)
    assert code == 0
    assert "  split_afew_va" in out
    code, out, _ = answer(["prepare", "split_sewa", "--help"], capsys)
    assert code == 0
    assert out.startswith("usage: hocp prepare split_sewa ")


WRONG = {
    "nothing": ([], "usage: hocp COMMAND"),
    "a group alone": (["prepare"], "usage: hocp prepare COMMAND"),
    "a typing error": (["trian"], "no such command: 'trian'; did you mean train?"),
    "one behind a group": (["prepare", "sewaa"], "hocp prepare: error: no such command: 'sewaa'; did you mean sewa?"),
    "an unknown option": (["--hlep"], "hocp: error: "),
    "an option of no command": (["demo", "--hlep"], "usage: hocp demo "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_command_is_refused_with_a_way_out(case: str, capsys: pytest.CaptureFixture[str]):
    words, text = WRONG[case]
    code, out, err = answer(words, capsys)
    assert (code, out) == (2, "")
    assert text in err


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (SomeFailedError("x"), 1), (HOCPError("x"), 2), (KeyboardInterrupt(), 130)],
)
def test_codes_say_how_it_ended(error: BaseException | None, code: int):
    def body() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(body)
    assert caught.value.code == code
    assert code in cli.EXIT_CODES


def test_the_entry_imports_no_command_before_it_is_asked_for():
    printed = run_python("""
        import sys
        from hocp_mm.commands.entry import main
        try:
            main(["demo", "--help"])
        except SystemExit:
            pass
        own = [name for name in sys.modules if name.startswith("hocp_mm.commands.")]
        heavy = [name for name in ("torch", "numpy", "mmengine", "av", "cv2", "shtab") if name in sys.modules]
        print(sorted(own), heavy)
    """)
    assert printed.endswith("['hocp_mm.commands.demo', 'hocp_mm.commands.entry', 'hocp_mm.commands.options'] []")


def test_a_shell_completes_commands_options_choices_and_files(tmp_path: Path):
    pytest.importorskip("shtab", reason="of requirements/lock.txt, but not in this environment yet: make setup")
    from hocp_mm.commands.completion import script

    (tmp_path / "hocp.bash").write_text(script("bash"), encoding="utf-8")
    (tmp_path / "face.mp4").touch()
    ask = """
        source hocp.bash
        ask() {
          COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
          $(complete -p hocp | sed 's/.*-F \\([^ ]*\\).*/\\1/') hocp "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
          echo "${COMPREPLY[@]}"
        }
        ask hocp de; ask hocp prepare split_; ask hocp demo --per; ask hocp demo --faces ca; ask hocp demo fa
    """
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["demo", "split_sewa split_afew_va", "--person", "cascade", "face.mp4"]
    assert script("zsh").startswith("#compdef hocp")


def test_completion_without_what_writes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    from hocp_mm.commands.completion import script

    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(MissingDataError, match="pip install shtab"):
        script("bash")


def test_recipes_are_found_by_name_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    own = (ROOT / "configs" / "hocp_sewa.py").resolve()
    for name in ("hocp_sewa", "hocp_sewa.py", "configs/hocp_sewa.py"):
        assert find_config(name).resolve() == own
    assert load_config("configs/hocp_sewa.py").model.type.endswith("AffectRecognizer")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "hocp_sewa.py").write_text("mine = 1")
    assert find_config("configs/hocp_sewa.py") == Path("configs/hocp_sewa.py")  # one's own comes first
    for name in ("nothing", "../configs/hocp_sewa.py", ".", "", "configs", "hocp_sewa.pth", "/hocp_sewa.py"):
        with pytest.raises(MissingDataError, match="config: no such file: "):
            find_config(name)
