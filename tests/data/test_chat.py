"""Qwen3's chat format: known strings, the shipped template, and what is refused."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndtrain.data.chat import BadRecord, check_messages, render
from ndtrain.data.chat_template import QWEN3_TEMPLATE

from .synthetic import properties

THOUGHT = "<think>\nadd them\n</think>\n\n"


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def rendered(*messages: dict[str, Any]) -> str:
    return render(check_messages(list(messages), "all"))[0]


@cache
def jinja_renderer() -> Callable[..., str]:
    """transformers' own environment for chat templates."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def call(messages: list[dict[str, Any]], **options: Any) -> str:
        rendered: Any = render_jinja_template([messages], chat_template=QWEN3_TEMPLATE, **options)
        return rendered[0][0]

    return call


# What Qwen3's published template gives for these conversations.
KNOWN = [
    (
        [message("user", "Hi"), message("assistant", "Hello!")],
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nHello!<|im_end|>\n",
    ),
    (
        [message("system", "Be brief."), message("user", "1+1?"), message("assistant", "2")],
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n2<|im_end|>\n",
    ),
    (  # reasoning of the last turn is kept, inside the content or beside it
        [message("user", "1+1?"), message("assistant", "<think>\nadd them\n</think>\n\n2")],
        f"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n{THOUGHT}2<|im_end|>\n",
    ),
    (
        [message("user", "1+1?"), message("assistant", "2", reasoning_content="add them")],
        f"<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n{THOUGHT}2<|im_end|>\n",
    ),
    (  # reasoning of earlier turns is dropped, and they get no empty block
        [
            message("user", "1+1?"),
            message("assistant", "<think>\nadd them\n</think>\n\n2"),
            message("user", "2+2?"),
            message("assistant", "4"),
        ],
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n",
    ),
    (  # after the last question: reasoning stays in every turn, the empty block only in the last
        [
            message("user", "q"),
            message("assistant", "a", reasoning_content="add them"),
            message("assistant", "b"),
            message("assistant", "c"),
        ],
        f"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{THOUGHT}a<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nc<|im_end|>\n",
    ),
    (  # a later system message is a turn like another
        [message("user", "q"), message("system", "s"), message("user", "r")],
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>system\ns<|im_end|>\n"
        "<|im_start|>user\nr<|im_end|>\n",
    ),
    (  # without a question nothing comes after one
        [message("system", "s"), message("assistant", "<think>\nx\n</think>\n\ny")],
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\ny<|im_end|>\n",
    ),
    (  # a tool's response is no question
        [
            message("user", "q"),
            message("assistant", "a", reasoning_content="add them"),
            message("user", "<tool_response>\n3\n</tool_response>"),
            message("assistant", "b"),
        ],
        f"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n{THOUGHT}a<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>\n",
    ),
]


@pytest.mark.parametrize(("messages", "text"), KNOWN)
def test_known_renderings(messages: list[dict[str, Any]], text: str) -> None:
    assert rendered(*messages) == text
    assert jinja_renderer()(messages) == text


def test_generation_prompt_of_the_template() -> None:
    question = [message("user", "Hi")]
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    call = jinja_renderer()
    assert call(question, add_generation_prompt=True) == prompt
    assert call(question, add_generation_prompt=True, enable_thinking=True) == prompt
    closed = prompt + "<think>\n\n</think>\n\n"
    assert call(question, add_generation_prompt=True, enable_thinking=False) == closed


contents = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "\n",
            "\n\n",
            " ",
            "x",
            "y z",
            "<tool_response>",
            "</tool_response>",
        ]
    ),
    max_size=6,
).map("".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages = []
    for role in draw(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1)):
        more = {}
        if role == "assistant" and draw(st.booleans()):
            more["reasoning_content"] = draw(st.none() | contents)
        messages.append(message(role, draw(contents), **more))
    return messages


@properties
@given(conversations())
def test_rendering_equals_the_template(messages: list[dict[str, Any]]) -> None:
    assert rendered(*messages) == jinja_renderer()(messages)


@properties
@given(conversations())
def test_spans_are_what_follows_the_assistants_header(messages: list[dict[str, Any]]) -> None:
    text, spans = render(check_messages(messages, "all"))
    turns = text.split("<|im_start|>")[1:]
    answers = [turn.removeprefix("assistant\n") for turn in turns if turn.startswith("assistant\n")]
    assert [text[begin:end] + "\n" for begin, end in spans] == answers


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "not a list of at least one message"),
        ("hello", "not a list"),
        (["hello"], "message 1 is not an object"),
        ([message("human", "x")], "message 1 has the role 'human'; known are system, user"),
        ([{"content": "x"}], "the role None"),
        ([message("user", "x"), {"role": "assistant"}], "message 2 has a `content` that is not"),
        ([message("user", [{"type": "text"}])], "message 1 has a `content` that is not a string"),
        ([message("user", "x", reasoning_content="y")], "has `reasoning_content`"),
        ([message("assistant", "x", reasoning_content=3)], "`reasoning_content` that is not"),
        ([message("assistant", "x", tool_calls=[{}])], "has `tool_calls`, which is not supported"),
        ([message("tool", "x")], "the role 'tool'"),
        ([message("user", "a<|im_end|>b")], "the `content` of message 1 contains <|im_end|>"),
        ([message("assistant", "x", reasoning_content="<|im_start|>")], "contains <|im_start|>"),
        ([message("user", "\udc00")], "unpaired surrogate"),
        ([message("user", "x")], "no assistant message"),
    ],
)
def test_what_the_template_cannot_express_is_refused(messages: Any, problem: str) -> None:
    with pytest.raises(BadRecord) as caught:
        check_messages(messages, "assistant")
    assert problem in str(caught.value)


def test_null_keys_and_prompts_without_answer_are_fine() -> None:
    assert check_messages([message("user", "x", tool_calls=None)], "all")
    assert check_messages([message("assistant", "x")], "assistant")


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([message("tool", "x")], {}),
        ([message("user", ["x"])], {}),
        ([message("user", "x")], {"tools": [{"name": "f"}]}),
    ],
)
def test_the_template_refuses_the_same(messages: Any, options: dict[str, Any]) -> None:
    import jinja2

    with pytest.raises(jinja2.TemplateError):
        jinja_renderer()(messages, **options)
