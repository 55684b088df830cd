"""Secrets
-------

Takes passwords and keys out of what is kept or printed: histories, transcripts, bundles, reports,
tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MASK", "masked", "masked_message", "masked_words"]

#: Stands for every secret, however long that is.
MASK = "********"

# Each is compiled when a text may have what it looks for.
# The last part of a name, as in "password", "proxy-password", "encrypt.passphrase", "rxcookie".
# "key-secret" and the like name an object, and are none.
_NAME = r"(?:password|passwd|passphrase|pass|psk|pin|key|token|cookie)"
_SECRET = rf"(?i)(?:.*[-_.])?{_NAME}|[rt]xcookie"
# An object that is a secret has it in "data" (qapi/crypto.json).
_OBJECT = r"\bsecret(?:_keyring)?\b"
_SWITCHES = frozenset(("on", "off", "true", "false", "yes", "no"))

# name=value in a line: up to a space or a comma, or quoted.  A comma in a value is doubled.
_IN_LINE = r"(?<![\w.-])([\w.-]+)=(\"(?:\\.|[^\"\\])*\"|'[^']*'|(?:,,|[^\s,'\"])+)"
# The same in one word of a command line, where spaces are the value's own.
_IN_WORD = r"(?<![\w.-])([\w.-]+)=((?:,,|[^,])+)"
# A whole word in quotes: 'data=two words'.
_IN_QUOTES = r"(['\"])([\w.-]+)=((?:(?!\1).)*)\1"
# A member of JSON, in the quotes that QEMU takes, or of JSON in a string of JSON.
_JSON = (
    r"(?s)((?P<quote>(?<!\\)\\{0,15}[\"'])(?P<name>[\w.-]+)(?P=quote)\s*:\s*)"
    r"(?P<open>\\{0,15})(?P<mark>[\"'])"
    r"(?P<value>(?:(?!(?P=open)(?P=mark))(?:\\.|[^\\]))*)(?P=open)(?P=mark)"
)
# A pair inside one value, as in rbd:pool/image:id=me:key=...
_IN_VALUE = rf"(?i)(:(?:[\w.-]*[-_.])?{_NAME}=)[^:,\s'\"]+"
# Of {"property": "password", "value": ...}, the name stands in another member.
_SET_BY_NAME = rf"(?i)\bproperty(?:=|[\"']\s*:\s*[\"'])(?:[^\s\"']*[-_.])?(?:{_NAME}|data)\b"
_SET_TO = r"(\bvalue(?:=|[\"']\s*:\s*))(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|[^\s,}]+)"
# All that follows is this command's own, spaces as well.
_OBJECT_ADD = r"\bobject_add\s+(?=[^\s])"
_URLS = (
    r"(?i)([a-z][a-z0-9+.-]{0,30}://[^/\s:@'\"]*:)[^@\s'\"]+(?=@)",
    r"(?i)(iscsi://[^/\s:@%'\"]*%)[^@\s'\"]+(?=@)",
)
# Commands of the monitors whose secret has no name.
_WORD = r"(\"[^\"]*\"|'[^']*'|(?![\w-]+=)[^\s'\"]+)"
_COMMANDS = tuple(
    rf"(\b{command}\s+){_WORD}"
    for command in (
        r"set_password\s+(?!protocol=)\S+",
        r"change\s+vnc(?:\s+(?:password|passwd))?",
        r"block_passwd\s+\S+",
        rf"qom-set\s+\S+\s+(?:\S*[-_.])?(?:{_NAME}|data)",
    )
)


def masked(line: str) -> str:
    """Return a line that somebody typed, or that was printed, without its secrets."""
    found = re.search(_OBJECT_ADD, line) if "object_add" in line else None
    if found is None:
        return _masked(line, _IN_LINE)
    # What follows it may be quoted as a whole, or be part of a message.
    rest = re.match(r"(?:[^\"'\n]|(?<==)[\"'])*", line[found.end() :])
    end = found.end() + (rest.end() if rest else 0)
    own = _masked(line[found.start() : end], _IN_WORD)
    return _masked(line[: found.start()] + own + line[end:], _IN_LINE)


def masked_words(words: Sequence[str]) -> list[str]:
    """Return a command line without its secrets."""
    # What kind of object a word makes may stand in another one.
    return [_masked(word, _IN_WORD) for word in words]


def _masked(text: str, assignment: str) -> str:
    data = "secret" in text and bool(re.search(_OBJECT, text))
    for url in _URLS if "://" in text else ():
        text = re.sub(url, rf"\1{MASK}", text)

    def quoted(found: re.Match[str]) -> str:
        quote, name, value = found.groups()
        return f"{quote}{name}={_value(name, value, data)}{quote}"

    def assigned(found: re.Match[str]) -> str:
        return f"{found[1]}={_value(found[1], found[2], data)}"

    def member(found: re.Match[str]) -> str:
        # What is no secret may be JSON in a string.
        value = MASK if _is_secret(found["name"], data) else re.sub(_JSON, member, found["value"])
        mark = found["open"] + found["mark"]
        return f"{found[1]}{mark}{value}{mark}"

    if "'" in text or '"' in text:
        text = re.sub(_IN_QUOTES, quoted, re.sub(_JSON, member, text))
    if "=" in text:
        text = re.sub(_IN_VALUE, rf"\1{MASK}", re.sub(assignment, assigned, text))
    if "property" in text.lower() and re.search(_SET_BY_NAME, text):
        text = re.sub(_SET_TO, lambda found: found[1] + _like(found[2]), text)
    for command in _COMMANDS if len(text.split()) > 1 else ():
        text = re.sub(command, rf"\1{MASK}", text)
    return text


def _like(value: str) -> str:
    """Return the mask in the quotes of a value."""
    mark = value[0] if value[0] in "\"'" else ""
    return f"{mark}{MASK}{mark}"


def _value(name: str, value: str, data: bool) -> str:
    secret = _is_secret(name, data) and value.lower() not in _SWITCHES
    return MASK if secret else value


def _is_secret(name: str, data: bool) -> bool:
    return bool(re.fullmatch(_SECRET, name)) or (data and name.rpartition(".")[2] == "data")


def masked_message(message: Any) -> Any:
    """Return a QMP message, or any part of one, without its secrets."""
    return _message(message, False)


def _message(value: Any, data: bool) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        kind = str(value.get("qom-type", ""))
        data = data or bool(re.fullmatch(_OBJECT, kind))
        named = _is_secret(str(value.get("property", "")), True)
        return {
            name: MASK
            if isinstance(item, str)
            and (_is_secret(str(name), data) or (named and name == "value"))
            else _message(item, data)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_message(item, data) for item in value]
    return value
