"""jobs.driver.progress: what a person sees of a training, on a terminal and in a log."""

import os
import pty
import subprocess
import sys
import termios

from bts.errors import UsageError
from jobs.driver.outcome import guarded
from jobs.driver.progress import counted, say

TRAINING = """
from jobs.driver.progress import TrainingMeter
meter = TrainingMeter()
meter.step("epoch 1, step 8", 1.0, None)
meter.step("epoch 1, step 16", 2.0, 6.0)
meter.epoch("epoch 1: loss 0.5")
meter.step("epoch 2, step 8", 6.0, 2.0)
meter.close()
"""


def test_a_training_is_a_bar_on_a_terminal():
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    with subprocess.Popen([sys.executable, "-c", TRAINING], stderr=slave) as process:
        os.close(slave)
        shown = b""
        while process.poll() is None or not shown.endswith(b"\n"):
            try:
                shown += os.read(master, 4096)
            except OSError:  # the other end is closed, and all is read
                break
    os.close(master)
    frames = shown.decode().replace("\r", "\n").splitlines()
    bars = [frame for frame in frames if "%|" in frame]
    assert any("0%|" in bar and "epoch 1, step 8" in bar for bar in bars)
    assert any(" 25%|" in bar and "epoch 1, step 16" in bar for bar in bars)
    assert " 75%|" in bars[-1] and "epoch 2, step 8" in bars[-1]
    assert "epoch 1: loss 0.5" in frames  # a line of its own, which stays


def test_a_training_is_plain_lines_in_a_log():
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True)
    wanted = ["epoch 1, step 8", "epoch 1, step 16", "epoch 1: loss 0.5", "epoch 2, step 8"]
    assert done.stderr.splitlines() == wanted and not done.stdout


def test_names_of_others_do_not_steer_the_terminal(capsys):
    """A file's name, or what a JSON file of others says, may hold escapes, and bytes that are no text."""

    def refuse():
        raise UsageError("x\x1b[2J\udce9.csv: is no table\n\tof \u202ecases")

    assert guarded("status", refuse) == 2
    say("case Пациент\x07: bad")
    said = "jobs.status: x\\x1b[2J\\udce9.csv: is no table\n\tof \\u202ecases\ncase Пациент\\x07: bad\n"
    assert capsys.readouterr().err == said


def test_one_case_is_no_cases():
    assert [counted(n, "study") for n in (0, 1, 2)] == ["0 studies", "1 study", "2 studies"]
    assert counted(1, "case") == "1 case" and counted(3, "labelmap") == "3 labelmaps"
