"""Completion in a shell
---------------------

Scripts for bash, zsh and fish, made from the verbs when the package is built.  A target may stand
before the verb, so that they look for the verb first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...verbs.verb import Verb, parser_for
from ..options import VALUED
from .table import EVERY

__all__ = ["bash", "fish", "zsh"]

_FILES = frozenset(("--core", "--exe", "--snapshot", "--layout", "--qmp"))
_FLAGS = ("--json", "--wide", "--debug", "--help", "--version")
# What qmr ps shows in its column of names; it looks at /proc only.
_NAMES = "qmr ps 2>/dev/null | awk 'NR > 1 && $1 ~ /^[0-9]+$/ { print $2 }'"


class _Option(NamedTuple):
    names: Sequence[str]
    help: str
    valued: bool
    choices: Sequence[str]
    file: bool


class _Words(NamedTuple):
    """What one verb takes."""

    name: str
    help: str
    options: Sequence[_Option]
    choices: Sequence[str]
    file: bool


def _verbs() -> Iterator[_Words]:
    for verb in EVERY.values():
        if "shell" in verb.fronts:
            yield _words(verb)


def _words(verb: Verb) -> _Words:
    files = {name for a in verb.arguments if a.completes == "file" for name in a.names}
    options = [
        _Option(
            action.option_strings,
            action.help or "",
            action.nargs != 0,
            [str(choice) for choice in action.choices or ()],
            bool(files.intersection(action.option_strings)),
        )
        for action in parser_for(verb)._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    ]
    places = [a.names[0] for a in verb.arguments if not a.names[0].startswith("-")]
    topics = [name for name, v in EVERY.items() if "shell" in v.fronts]
    choices = topics if verb.name == "help" else []
    return _Words(verb.name, verb.help, options, choices, bool(files.intersection(places)))


def _long(options: Sequence[_Option]) -> list[str]:
    return [name for option in options for name in option.names if name.startswith("--")]


# bash ------------------------------------------------------------------------------


def bash() -> str:
    """Return the script for bash."""
    verbs = list(_verbs())
    lines = [
        "# Completion of qmr for bash; made from its verbs.",
        "_qmr() {",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i",
        f'    local verbs=" {" ".join(verb.name for verb in verbs)} "',
        "    for ((i = 1; i < COMP_CWORD; i++)); do",
        '        if [[ $verbs == *" ${COMP_WORDS[i]} "* ]]; then verb=${COMP_WORDS[i]}; break; fi',
        "    done",
        '    case "$verb $prev" in',
    ]
    for verb in verbs:
        for option in (option for option in verb.options if option.valued):
            pattern = "|".join(f'"{verb.name} {name}"' for name in option.names)
            words = f'-W "{" ".join(option.choices)}"' if option.choices else "-f"
            action = f'COMPREPLY=($(compgen {words} -- "$cur"))'
            wanted = option.choices or option.file
            lines.append(
                f"        {pattern}) {action if wanted else ''}{'; ' * bool(wanted)}return ;;"
            )
    for name in VALUED:
        action = 'COMPREPLY=($(compgen -f -- "$cur")); ' if name in _FILES else ""
        lines.append(f'        *" {name}") {action}return ;;')
    lines += ["    esac", '    local words files= names="$verbs"', "    case $verb in"]
    everywhere = [*VALUED, *_FLAGS]
    for verb in verbs:
        words = " ".join([*verb.choices, *_long(verb.options)])
        files = " files=yes" if verb.file else ""
        lines.append(f'        {verb.name}) words="{words}"{files} ;;')
    lines += [
        f'        *) words="$verbs {" ".join(everywhere)}"',
        "            if ((COMP_CWORD == 1)) && [[ $cur != -* ]]; then",
        f'                words+=" $({_NAMES})"',
        "            fi ;;",
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        '    if [[ $files && $cur != -* ]]; then COMPREPLY+=($(compgen -f -- "$cur")); fi',
        "}",
        "complete -o filenames -F _qmr qmr",
    ]
    return "\n".join(lines) + "\n"


# zsh -------------------------------------------------------------------------------


def zsh() -> str:
    """Return the script for zsh."""
    verbs = list(_verbs())
    lines = ["#compdef qmr", "# Completion of qmr for zsh; made from its verbs.", "", "_qmr() {"]
    lines += ["    local -a verbs names specs", "    local verb= word at=0"]
    lines += ["    verbs=("]
    lines += [f"        {_zsh_quoted(f'{v.name}:{v.help}')}" for v in verbs]
    lines += [
        "    )",
        "    for word in ${words[2,CURRENT-1]}; do",
        "        (( at++ ))",
        "        if (( ${verbs[(I)$word:*]} )); then verb=$word; break; fi",
        "    done",
        "    if [[ -z $verb ]]; then",
        "        if [[ $words[CURRENT] == -* ]]; then",
        f"            compadd -- {' '.join([*VALUED, *_FLAGS])}",
        f"        elif [[ $words[CURRENT-1] == ({'|'.join(sorted(_FILES))}) ]]; then",
        "            _files",
        "        else",
        f'            if (( CURRENT == 2 )); then names=(${{(f)"$({_NAMES})"}}); fi',
        "            (( $#names )) && compadd -X 'a QEMU that runs' -- $names",
        "            _describe -t verbs verb verbs",
        "        fi",
        "        return",
        "    fi",
        "    # What stands before the verb is no concern of its arguments.",
        "    shift $at words",
        "    (( CURRENT -= at ))",
        "    case $verb in",
    ]
    for verb in verbs:
        lines.append(f"        {verb.name})")
        lines += [f"            specs+=({spec})" for spec in _zsh_specs(verb)]
        lines.append("            ;;")
    lines += ["    esac", "    _arguments -s $specs", "}", "", '_qmr "$@"']
    return "\n".join(lines) + "\n"


def _zsh_specs(verb: _Words) -> Iterator[str]:
    for option in verb.options:
        value = ""
        if option.valued:
            action = f"({' '.join(option.choices)})" if option.choices else "_files"
            value = f":value:{action if option.choices or option.file else ' '}"
        text = option.help.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
        for name in option.names:
            yield _zsh_quoted(f"{name}[{text}]{value}")
    if verb.choices:
        yield _zsh_quoted(f"*:word:({' '.join(verb.choices)})")
    elif verb.file:
        yield _zsh_quoted("*:file:_files")
    else:
        yield _zsh_quoted("*:word: ")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish ------------------------------------------------------------------------------


def fish() -> str:
    """Return the script for fish."""
    verbs = list(_verbs())
    names = " ".join(verb.name for verb in verbs)
    lines = [
        "# Completion of qmr for fish; made from its verbs.",
        f"set -l verbs {names}",
        "complete -c qmr -f",
        f"set -l early 'not __fish_seen_subcommand_from {names}'",
        f"complete -c qmr -n $early -a \"({_NAMES.replace('$', chr(92) + '$')})\" -d 'a QEMU'",
    ]
    for name in VALUED:
        file = " -F" if name in _FILES else ""
        lines.append(f"complete -c qmr -l {name[2:]} -r{file}")
    lines += [f"complete -c qmr -n $early -l {flag[2:]}" for flag in _FLAGS]
    for verb in verbs:
        lines.append(f"complete -c qmr -n $early -a {verb.name} -d {_fish_quoted(verb.help)}")
        here = f"-n '__fish_seen_subcommand_from {verb.name}'"
        for option in verb.options:
            parts = [
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            ]
            if option.valued:
                parts.append("-r -F" if option.file else "-x")
                if option.choices:
                    parts.append(f"-a {_fish_quoted(' '.join(option.choices))}")
            parts.append(f"-d {_fish_quoted(option.help)}")
            lines.append(f"complete -c qmr {here} {' '.join(parts)}")
        if verb.choices:
            lines.append(f"complete -c qmr {here} -a {_fish_quoted(' '.join(verb.choices))}")
        elif verb.file:
            lines.append(f"complete -c qmr {here} -F")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
