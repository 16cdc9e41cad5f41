"""The README keeps its word: its examples run, top to bottom, and its first two commands are one line each.

.ci/run runs the two commands.
"""

import re
from pathlib import Path

from helpers import support

from bnkern.arrays import table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fences(language):
    """(lines before it, text) of each fence in this language."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        yield README.count("\n", 0, found.start(1)), found[1]


def test_examples_run(python):
    examples = list(fences("python"))
    assert len(examples) == 8
    program = ""
    for line, code in examples:
        program += "\n" * (line - program.count("\n")) + code  # so that an error tells the README's line
    python(program)


def test_the_first_two_fences_are_the_two_commands():
    commands = [text for _, text in fences("bash")]
    assert commands[:2] == ["pip install '.[demo]' && bnkern demo\n", "pip install '.[test]' && pytest\n"]
    assert README.startswith(README.partition("```")[0] + "```bash\n" + commands[0] + "```\n")


def test_the_table_of_kinds_is_the_declaration():
    """Regenerate it with: python -P -c 'from bnkern.arrays import table; print(table())'."""
    begin, end = "<!-- bnkern/arrays: table() -->\n\n", "\n\n<!-- end of table() -->"
    assert README.partition(begin)[2].partition(end)[0] == table()


def test_what_it_names_exists():
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:bnkern|src|tests|benchmarks|\.ci)/[\w./]+)`|\]\(([\w./]+)\)", text)
    files = {code or link for code, link in named if "NAME" not in code}
    assert len(files) > 5
    assert {file for file in files if not (ROOT / file).exists()} == set()


def test_levels_are_those_there_are():
    assert [level for level in support.LEVEL_FLAGS if level not in README] == []
