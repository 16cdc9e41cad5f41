"""The console command, `bnkern info`, `show_config` and `explain`."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import bnkern
from bnkern import _config, _explain
from bnkern.cli import info
from bnkern.cli import main as command
from bnkern.cli.main import main

# --- the command line -------------------------------------------------------------------------------------


def test_overview_names_every_command(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, entry in command.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.purpose)}$", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--help"], *(["info", "--help"], ["demo", "--help"])])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: bnkern" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"bnkern {bnkern.__version__}\n"


@pytest.mark.parametrize("arguments", [["nothing"], ["--nothing"], ["info", "--nothing"]])
def test_unknown_arguments(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "nothing" in capsys.readouterr().err


def test_interrupted(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "bnkern info: interrupted\n"


def test_module_is_the_command(tmp_path):
    """`python -m bnkern` works, and its exit status is the command's."""
    call = [sys.executable, "-P", "-m", "bnkern"]
    done = subprocess.run([*call, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"bnkern {bnkern.__version__}\n")
    assert subprocess.run([*call, "x"], capture_output=True, cwd=tmp_path, timeout=60).returncode == 2


def test_nothing_optional_is_imported_for_information(python):
    python(
        "import sys\n"
        "from bnkern.cli.main import main\n"
        "assert main([]) == 0\n"
        "assert not {'bnkern._config', 'bnkern.cli.info', 'bnkern.cli.demo'} & set(sys.modules)\n"
        "assert main(['info']) == 0\n"
        "assert not {'rich', 'matplotlib', 'sklearn', 'torch', 'bnkern.cli.demo'} & set(sys.modules)\n"
    )


# --- info and show_config ---------------------------------------------------------------------------------


def test_info_tells_what_is_asked_for(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for text in (bnkern.__version__, np.__version__, "compiler", "flags", "BNKERN_CPU", "because of"):
        assert text in out
    for text in ("OMP_NUM_THREADS", "OpenMP runtimes", "optional packages", "matplotlib"):
        assert text in out
    bnkern.show_config()
    assert capsys.readouterr().out == out


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == bnkern.show_config("dicts") == _config.config()


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode: expected 'stdout' or 'dicts', got 'html'"):
        bnkern.show_config("html")


def test_instruction_set_is_one_of_those_supported():
    facts = _config.config()["instruction set"]
    assert facts["chosen"] in facts["supported here"]


def test_threads_and_why():
    openmp = _config.kernels.has_openmp()
    with bnkern.threads(3):
        facts = _config.config()["threads"]
        assert (facts["number"], facts["because of"]) == (
            (3, "threads") if openmp else (1, "a serial build")
        )
    facts = _config.config()["threads"]
    if openmp:
        assert facts["number"] == bnkern.get_num_threads()
        assert all(facts[source] == facts["number"] for source in facts["because of"].split(" and "))


def test_without_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "not installed" in _config.config()["OpenMP runtimes"]["loaded"]


def test_missing_packages_have_no_version(monkeypatch):
    monkeypatch.setitem(_config.PACKAGES, "nothing", ("no-such-package-here",))
    packages = _config.config()["optional packages"]
    assert packages["nothing"] is None
    assert packages["rich"]


# --- explain ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["train", "inference", "backward", "stats"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 5, 7, 7), 1), ((8, 7, 7, 5), -1), ((60, 100), 1), ((1, 1, 99_999), 1)]
)
def test_explain(op, shape, axis):
    x = np.zeros(shape, np.float32)
    told = bnkern.explain(x, axis=axis, op=op)
    assert (told.engine, told.refused) == ("cpu", ())
    assert told.isa == _config.config()["instruction set"]["chosen"]
    assert 1 <= told.threads <= bnkern.get_num_threads()
    assert told.bytes_moved >= told.bytes_least >= x.nbytes
    assert told.layout
    text = str(told)
    assert text.startswith(f"{op} of ndarray {shape} float32")
    assert "by       CPU kernels\n" in text


def test_explain_strided():
    x = np.zeros((4, 6, 10), np.float64)[:, ::2, ::-3]
    told = bnkern.explain(x)
    assert told.bytes_least == 2 * x.size * 8
    assert told.note


def test_explain_when_the_first_engine_refuses():
    told = bnkern.explain(np.zeros((0, 3), np.float32))
    assert told.engine == "array_api"
    assert told.refused[0] == "cpu: x has no elements"
    assert told.bytes_moved is None
    assert "by the array API standard; not cpu: x has no elements" in str(told)


@pytest.mark.parametrize(
    ("error", "told", "arguments"),
    [
        (ValueError, "op: expected one of 'train'", {"op": "training"}),
        (ValueError, "op: expected", {"op": None}),
        (ValueError, "op: expected", {"op": ["train"]}),
        (ValueError, "axis: expected", {"axis": 2}),
        (TypeError, "axis: expected", {"axis": "1"}),
    ],
)
def test_explain_rejects(error, told, arguments):
    with pytest.raises(error, match=told):
        bnkern.explain(np.zeros((2, 3), np.float32), **arguments)


def test_explain_rejects_as_the_call_would():
    with pytest.raises(TypeError, match="x: expected dtype"):
        bnkern.explain(np.zeros((2, 3), int))


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (2400, "2.4 kB"), (103_000_000, "103 MB"), (2 * 10**9, "2 GB")],
)
def test_bytes_in_words(n, text):
    assert _explain._bytes(n) == text
