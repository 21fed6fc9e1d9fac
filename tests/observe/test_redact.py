"""Redaction: what is taken, what stays, and that the same thing keeps its name."""

from pathlib import Path

import pytest

from ndtrain.observe.redact import SECRET, Redactor, secret_values


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(
        home=Path("/home/ada"),
        user="ada",
        hosts=["node7.corp.example", "node7"],
        secrets=["hunter22hunter22"],
        roots={"<run>": Path("/home/ada/runs/small"), "<python>": Path("/usr/lib/python3.11")},
        places=["/data/my corpus/*.jsonl", "corpora/acme/*.txt"],
        commits=["c8a0935000000000000000000000000000000000"],
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it was hunter22hunter22!", f"it was {SECRET}!"),
        ("WANDB_API_KEY=abc", f"WANDB_API_KEY={SECRET}"),
        ("{'api_key': 'a b c', 'x': 1}", f"{{'api_key': '{SECRET}', 'x': 1}}"),
        ("HFTOKEN: x7", f"HFTOKEN: {SECRET}"),
        ("apiKey = x7", f"apiKey = {SECRET}"),
        ("using hf_ABCDEFGHIJKLMNOPQRST now", f"using {SECRET} now"),
        ("Authorization: Bearer abcdefgh12345", f"Authorization: {SECRET}"),
        ("id AKIAIOSFODNN7EXAMPLE.", f"id {SECRET}."),
        ("a" * 40, SECRET),
        ("c8a0935000000000000000000000000000000000",) * 2,
        ("ada@node7: Ada's node7.corp.example", "<user>@<host-2>: <user>'s <host-1>"),
        ("node12 is slow, node7x is not", "<host-1> is slow, node7x is not"),
        ("see https://me:pw@corp.example/x?y", "see <url-1>"),
        ("mail ada@corp.example", "mail <mail-1>"),
        ("10.0.0.12:29500 and 127.0.0.1:80", "<address-1>:29500 and 127.0.0.1:80"),
        ("[fe80::1] at 00:11:54", "[<address-1>] at 00:11:54"),
        ("/data/my corpus/*.jsonl", "<path-1>.jsonl"),
        ("bad: /data/my corpus/part 1.jsonl:7", "bad: <path-1> 1.jsonl:7"),
        ("corpora/acme/*.txt", "<path-1>.txt"),
        ('File "/home/ada/work/x.py", line 3', 'File "<path-1>.py", line 3'),
        ("/home/ada/runs/small/log/rank_0000.log", "<run>/log/rank_0000.log"),
        ("/usr/lib/python3.11/json/__init__.py:3", "<python>/json/__init__.py:3"),
        ("~/secret/place and /home/ada", "<path-1> and <home>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n", SECRET),
    ],
)
def test_what_is_taken(redactor: Redactor, text: str, expected: str) -> None:
    assert redactor.text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "step 12/60 | loss 7.0967 | 569 tok/s (284/dev) | mem 0.48 GiB 2% | eta 00:02:38",
        "tokens_per_second: 12, num_kv_heads: 4, tokenizer: train, keep_last = 2",
        "overlap: qkv forward: ring (predicted 1.17 ms, blocking 1.40 ms: 16 % less)",
        "2026-11-24T21:40:00+00:00 torch 2.13.0+cpu",
        "a / b and/or c",
    ],
)
def test_what_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


def test_the_same_thing_has_the_same_name_everywhere(redactor: Redactor) -> None:
    first = redactor.text("/mnt/a/x.bin then /mnt/b/y.bin")
    assert first == "<path-1>.bin then <path-2>.bin"
    assert redactor.value({"weights": ["/mnt/b/y.bin"]}) == {"weights": ["<path-2>.bin"]}


def test_values_by_the_names_they_have(redactor: Redactor) -> None:
    value = {"token": 12345678, "deep": {"db_password": ["a", "b"]}, "steps": 3, "on": True}
    expected = {"token": SECRET, "deep": {"db_password": [SECRET, SECRET]}, "steps": 3, "on": True}
    assert redactor.value(value) == expected


def test_secret_variables() -> None:
    environment = {
        "HF_TOKEN": "value-one",
        "AWS_SECRET_ACCESS_KEY": "value-two",
        "DEBUG_TOKEN": "yes",  # too short to be searched for
        "PWD": "/home/ada",
        "PATH": "/usr/bin",
    }
    assert secret_values(environment) == ["value-one", "value-two"]


def test_root_is_a_word_and_no_person() -> None:
    redactor = Redactor(home=Path("/root"), user="root")
    assert redactor.text("the square root in /root") == "the square root in <home>"


def test_a_long_line_takes_no_long_time(redactor: Redactor) -> None:
    line = "ab/-" * 60_000
    assert len(redactor.text(line)) > 0
