"""The line in a text of Ray's that says what happened: the last one is advice, and there may be a page before it."""

from __future__ import annotations

import re

_MOST = 400  # characters of a cause
# Text -> what it says. The first that is found counts.
_KNOWN = (
    # "1 worker(s) were killed due to the node running low on memory. Memory on the node (...) was 3.0GB / 4.0GB"
    re.compile(
        r"(?:\d+ worker\S* were|Task was) killed due to the node running low on memory[^\n]*(?:\nMemory [^\n;]*)?"
    ),
    # "Worker exit type: SYSTEM_ERROR Worker exit detail: ... Some common causes include: ..."
    re.compile(r"Worker exit type: [^\n]*?(?=\s*Some common causes include|\n|$)"),
    re.compile(r"[^\n.]*\bnode has died[^\n]*"),
)
_ERROR_LINE = re.compile(r"^\s*(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b(?::\s*\S[^\n]*)?$", re.MULTILINE)
_ADVICE = re.compile(r"^(?:Refer to|To (?:troubleshoot|see|adjust|disable)|NOTE|Please|See |For more|Consider|Check )")


def cause_of(*errors: BaseException) -> str:
    """The cause of errors of Ray, in one line.

    Out of memory and the end of a process or node first; else the last error of a worker's trace; else the first line
    that is no advice.
    """
    text = "\n".join(str(error).strip() for error in errors)
    for pattern in _KNOWN:
        if found := pattern.search(text):
            return _short(found.group())
    raised = [found.group() for found in _ERROR_LINE.finditer(text) if ":" in found.group()]
    if raised:
        return _short(raised[-1])
    plain = [line for line in text.splitlines() if line.strip() and not _ADVICE.match(line.strip())]
    return _short(plain[0] if plain else text.partition("\n")[0] or type(errors[0]).__name__)


def _short(line: str) -> str:
    """Without runs of spaces, and not longer than a message can take."""
    words = " ".join(line.split())
    return words if len(words) <= _MOST else f"{words[: _MOST - 3]}..."
