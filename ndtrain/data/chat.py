"""Conversations as Qwen3 writes them, and which characters of them the loss counts.

    text, spans = render(check_messages(record["messages"], train_on="assistant"))

The rendering equals that of the template in `chat_template.py` (and so of Qwen3's own, for
conversations without tools): ChatML; reasoning only in assistant turns after the last question; the
last turn has a think block even without reasoning. Counted is what the model has to produce after
`<|im_start|>assistant\\n`: the think block, the content and `<|im_end|>`. An empty think block is
counted too: Qwen3 keeps it in the response of non-thinking samples (arXiv:2505.09388, section 4.3).
"""

from typing import Any, Literal, TypedDict

from ndtrain.data.special_tokens import IM_END, IM_START, SPECIAL_TOKENS

ROLES = ("system", "user", "assistant")


class BadRecord(ValueError):
    """What is wrong with a record, without its place."""


class Message(TypedDict):
    role: str
    content: str
    reasoning_content: str | None  # of assistant turns; None: inside the content, if anywhere


def check_messages(messages: Any, train_on: Literal["assistant", "all"]) -> list[Message]:
    """The messages of one record. Raises BadRecord for what the template cannot express."""
    if not isinstance(messages, list) or not messages:
        raise BadRecord("`messages` is not a list of at least one message")
    checked = [_check_message(message, f"message {i}") for i, message in enumerate(messages, 1)]
    if train_on == "assistant" and not any(message["role"] == "assistant" for message in checked):
        raise BadRecord("no assistant message, but data.train_on=assistant")
    return checked


def _check_message(message: Any, name: str) -> Message:
    if not isinstance(message, dict):
        raise BadRecord(f"{name} is not an object")
    role = message.get("role")
    if role not in ROLES:
        raise BadRecord(f"{name} has the role {role!r}; known are {', '.join(ROLES)}")
    allowed = {"role", "content"} | ({"reasoning_content"} if role == "assistant" else set())
    # Other keys (tool calls, weights, names) would change the rendering or the loss: not ignored.
    unknown = [key for key, value in message.items() if key not in allowed and value is not None]
    if unknown:
        raise BadRecord(f"{name} ({role}) has `{unknown[0]}`, which is not supported")
    reasoning = message.get("reasoning_content")
    for key, value in (("content", message.get("content")), ("reasoning_content", reasoning)):
        if value is None and key == "reasoning_content":
            continue
        if not isinstance(value, str):
            raise BadRecord(f"{name} has a `{key}` that is not a string")
        _check_text(value, f"the `{key}` of {name}")
    return Message(role=role, content=message["content"], reasoning_content=reasoning)


def _check_text(text: str, name: str) -> None:
    for token in SPECIAL_TOKENS:
        if token in text:  # it would end the turn or forge another
            raise BadRecord(f"{name} contains {token}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRecord(f"{name} has an unpaired surrogate") from None


def render(messages: list[Message]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The conversation as one string, and the spans [begin, end) of it that a model produces."""
    last_query = _last_query(messages)
    text = ""
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        text += f"{IM_START}{message['role']}\n"
        begin = len(text)
        if message["role"] == "assistant":
            is_last = index == len(messages) - 1
            text += _assistant_body(message, index > last_query, is_last) + IM_END
            spans.append((begin, len(text)))
        else:
            text += message["content"] + IM_END
        text += "\n"
    return text, tuple(spans)


def _last_query(messages: list[Message]) -> int:
    """Index of the last user message that is not a tool's response; the last message if none."""
    for index in range(len(messages) - 1, -1, -1):
        content = messages[index]["content"]
        is_response = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[index]["role"] == "user" and not is_response:
            return index
    return len(messages) - 1


def _assistant_body(message: Message, after_last_query: bool, is_last: bool) -> str:
    content = message["content"]
    reasoning = message["reasoning_content"]
    if reasoning is None:
        reasoning = ""
        if "</think>" in content:
            reasoning = content.split("</think>")[0].split("<think>")[-1].strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
    if not after_last_query or not (is_last or reasoning):
        return content
    inner = reasoning.strip("\n")
    return f"<think>\n{inner}\n</think>\n\n" + content.lstrip("\n")
