"""`--help` of every command: one example that parses, what is needed first, words that a reader knows."""

import dataclasses
import importlib
import re
import shlex

import pytest
import tyro

from bts.presets import PRESETS
from jobs.__main__ import commands
from jobs.driver import flags, preset_flags

WITH_PRESET = ("train", "tune")
PLAIN = [name for name in commands() if name not in WITH_PRESET]
HOUSE = re.compile(r"\b(mend|mends|markers?|strays?|truths?|in the box|the box|told by|fingerprinted)\b")


def help_of(name: str, capsys) -> str:
    """What --help prints, its boxes and line ends taken out."""
    job = importlib.import_module(f"jobs.{name}")
    with pytest.raises(SystemExit) as ended:
        if name in WITH_PRESET:
            preset_flags.parse(name, job.Settings, job.__doc__, ["fast", "--help"])
        else:
            flags.parse(job.Settings, f"python -m jobs.{name}", job.__doc__, ["--help"])
    assert ended.value.code == 0
    return " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())


@pytest.mark.parametrize("name", commands())
def test_it_has_one_example_that_the_command_takes(name, capsys):
    said, job = help_of(name, capsys), importlib.import_module(f"jobs.{name}")
    assert said.count("Example:") == 1
    example = flags.EXAMPLE.search(job.__doc__)[0].replace("\\\n", " ")
    python, flag, module, *words = shlex.split(example)
    assert (python, flag, module) == ("python", "-m", f"jobs.{name}")
    if name in WITH_PRESET:
        assert preset_flags.parse(name, job.Settings, job.__doc__, words).preset.name in PRESETS
    else:
        assert flags.parse(job.Settings, name, job.__doc__, words) == tyro.cli(job.Settings, args=words)


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_needed_comes_first_and_every_flag_has_its_text(name, capsys):
    said, job = help_of(name, capsys), importlib.import_module(f"jobs.{name}")
    texts = flags.field_texts(job.Settings)
    for field in dataclasses.fields(job.Settings):
        assert " ".join(texts[field.name].split()[:6]) in said, field.name
    options = [part for part in said.split("(default:")[:-1] if "(required)" in part]
    assert len(options) <= 1, "a required flag stands behind one that has a default"


@pytest.mark.parametrize("name", commands())
def test_it_has_no_house_words(name, capsys):
    said = re.sub(r"ground[- ]truth", "", help_of(name, capsys))
    assert HOUSE.findall(said) == []
