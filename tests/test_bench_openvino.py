"""`python -m bench.openvino`: its table and the checks of its arguments, without OpenVINO."""

from __future__ import annotations

import sys

import pytest

from bench.openvino import environment, peer
from bench.openvino.__main__ import arguments
from bench.openvino.timing import Call, table


def rounds():
    """Three rounds; OpenVINO's whole times drift, its shares are 0.5, 0.6 and 0.9."""
    theirs = [(100, 50), (200, 120), (1000, 900)]
    return [
        {
            ("openvino", 0): Call(whole),
            ("openvino", 50): Call(part, 4 + number, 288),
            ("sparevlm", 0): Call(300),
            ("sparevlm", 50): Call(240, 2.5, 288),
        }
        for number, (whole, part) in enumerate(theirs)
    ]


def test_shares_are_taken_within_rounds():
    head, line, *rows = table(rounds(), 576).splitlines()
    assert head.count("|") == line.count("|")
    assert rows == [
        "| openvino | 0 % | 576 | 200 | 1 |  |",
        "| openvino | 50 % | 288 | 120 | 0.60 (0.50 .. 0.90) | 5.0 |",
        "| sparevlm | 0 % | 576 | 300 | 1 |  |",
        "| sparevlm | 50 % | 288 | 240 | 0.80 (0.80 .. 0.80) | 2.5 |",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--removed 0", "from 1 to 99"),
        ("--removed 50 100", "from 1 to 99"),
        ("--removed 50 50", "twice"),
        ("--hidden 100", "multiples of 64"),
        ("--vision 0", "multiples of 64"),
        ("--hidden 832", "must divide"),
        ("--layers 0", "--layers"),
        ("--vision-layers 0", "--vision-layers"),
        ("--rounds 0", "at least 1"),
        ("--threads 0", "at least 1"),
    ],
)
def test_bad_arguments_are_said(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["openvino", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        arguments()
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_defaults_are_accepted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["openvino"])
    asked = arguments()
    assert (asked.removed, asked.threads, asked.rounds) == ([50, 89], 1, 9)


def test_the_log_is_read():
    log = (
        "[INFO] CDPruner Summary:\n[INFO] \t  Original Visual Tokens: 576\n"
        "[INFO] \t  Removed Visual Tokens: 513\n[INFO] \tTotal Pruning Time: 12 ms\n"
    )
    assert peer.read_log(log) == {"pruning": 12, "kept": 63}
    assert peer.read_log("[INFO] nothing of that kind\n") == {"pruning": None, "kept": None}


def test_the_other_interpreter_is_not_led_to_our_packages(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert "PYTHONPATH" not in environment.clean()
    assert environment.default_folder().is_relative_to("/elsewhere")
