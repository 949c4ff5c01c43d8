"""Judges one line of training data, before a child is started for it."""

from typing import Any

ROLES = ("system", "user", "assistant", "tool")


def fault_in(sample: Any) -> str | None:
    """Return what is wrong with one parsed JSON line, or None.

    A sample is `{"messages": [{"role", "content"}, …]}`, `{"prompt", "completion"}` or `{"text"}`.
    """
    if not isinstance(sample, dict):
        return "it is not a JSON object"
    if "messages" in sample:
        return _fault_in_messages(sample["messages"])
    if "prompt" in sample or "completion" in sample:
        for key in ("prompt", "completion"):
            if not isinstance(sample.get(key), str):
                return f"`{key}` is missing or not text"
        return None if sample["completion"] else "`completion` is empty: nothing to learn from"
    if "text" in sample:
        if not isinstance(sample["text"], str):
            return "`text` is not text"
        return None if sample["text"] else "`text` is empty: nothing to learn from"
    return "it has none of `messages`, `prompt` with `completion`, or `text`"


def _fault_in_messages(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "`messages` is not a list with messages in it"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            return f"message {number} is not an object"
        if message.get("role") not in ROLES:
            return f"message {number} has role {message.get('role')!r}; known: {', '.join(ROLES)}"
        if not isinstance(message.get("content"), str):
            return f"message {number} has no text under `content`"
    if all(message["role"] != "assistant" for message in messages):
        return "no message is the assistant's: nothing to learn from"
    return None
