"""The REPL on a terminal
----------------------

A prompt that stays while commands run: what they answer, and what QEMU announces, is
printed above it.  Nothing here waits for the VM; that is the work of other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections import deque
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from ...masking import masked
from ...report import render
from ...text import printable
from .history import open_history
from .line import logical_lines, unfinished
from .pager import page

if TYPE_CHECKING:
    from ...monitor.base import Event
    from ..options import Options
    from .engine import Engine
    from .look import LineLexer, MenuCompleter
    from .pages import Runner
    from .session import ReplSession
    from .vm import Vm

__all__ = ["Screen"]

_STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse bg:#303030 #d0d0d0",
        "bar.name": "bold",
        "bar.good": "#87d787",
        "bar.warning": "#ffd75f",
        "bar.error": "bold #ff8787",
        "bar.dim": "#9e9e9e",
        "prompt": "bold",
        "verb": "bold ansigreen",
        "command": "ansicyan",
        "key": "ansiblue",
        "string": "ansiyellow",
        "number": "ansimagenta",
        "operator": "bold",
        "option": "ansicyan",
        "comment": "ansibrightblack",
    }
)

# Output that comes in pieces is put above the prompt this often at most, in seconds.
_FLUSH_S = 0.03
# Of a flood of events this many are shown at a time; the rest is counted.
_EVENTS_AT_ONCE = 12
_EVENTS_S = 0.25


class Screen:
    """A session at a terminal.

    :param options: what to attach to first.
    :param startup: commands to run first, None for none.
    """

    def __init__(self, options: Options, startup: Path | None) -> None:
        self._options, self._startup = options, startup
        #: The session and what drives it; there are none before :meth:`_build` is through.
        self.session: ReplSession
        self.engine: Engine
        self.runner: Runner
        self._lexer: LineLexer
        self._completer: MenuCompleter
        self._ready = threading.Event()
        self._early: list[tuple[str, bool]] = []
        self._history = open_history()
        self._output: deque[tuple[str, bool]] = deque()
        self._events: deque[tuple[Vm, Event]] = deque()
        self._lock = threading.Lock()
        self._flushing = False
        self._counting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._prompt: PromptSession[str] | None = None
        self._closing = False
        self._tasks: set[asyncio.Future[None]] = set()

    def run(self) -> int:
        """Run the session and return the exit code."""
        return asyncio.run(self._main())

    async def _main(self) -> int:
        self._loop = asyncio.get_running_loop()
        prompt: PromptSession[str] = PromptSession(
            message=self._message,
            history=self._history,
            completer=_Late(self),
            complete_in_thread=True,
            complete_while_typing=False,
            lexer=_LateLexer(self),
            multiline=Condition(lambda: unfinished(prompt.default_buffer.text)),
            auto_suggest=AutoSuggestFromHistory(),
            bottom_toolbar=self._toolbar,
            key_bindings=self._keys(),
            style=_STYLE,
            include_default_pygments_style=False,
            reserve_space_for_menu=6,
        )
        self._prompt = prompt
        # The prompt comes first; what takes time begins when it is there.
        prompt.app.after_render += self._begin
        self._hear_interrupts()
        try:
            with patch_stdout(raw=True):
                await self._read_lines(prompt)
                await self._flush_all()
        finally:
            self._closing = True
            if self._ready.is_set():
                self.runner.cancel()
                self.session.close()
            self._loop.remove_signal_handler(signal.SIGINT)
        return 0

    def _hear_interrupts(self) -> None:
        # Between two prompts the terminal makes a signal of a Ctrl-C, and a prompt takes away the
        # handler that it found.
        assert self._loop is not None
        self._loop.add_signal_handler(signal.SIGINT, self._give_up)

    async def _read_lines(self, prompt: PromptSession[str]) -> None:
        while not self._ready.is_set() or not self.session.over:
            try:
                line = await prompt.prompt_async()
            except KeyboardInterrupt:
                continue
            except EOFError:
                if not self._ready.is_set() or not self.session.over:
                    self._cancel()
                return
            finally:
                self._hear_interrupts()
            if line.strip() in ("exit", "quit") and not self._busy():
                return
            # What was pasted may be several lines; JSON over several is one.
            lines = [one for _, one in logical_lines(line.splitlines()) if one.strip()]
            for one in lines:
                self._submit(one, echo=len(lines) > 1)

    def _begin(self, app: Application[str]) -> None:
        app.after_render -= self._begin
        threading.Thread(target=self._build, name="build", daemon=True).start()

    def _build(self) -> None:
        from .engine import Engine
        from .look import LineLexer, MenuCompleter
        from .pages import Runner
        from .session import ReplSession

        self.session = ReplSession(self.notify, self.redraw, self._heard)
        # The newest come first.
        self.session.history += reversed(list(self._history.load_history_strings()))
        self.engine = Engine(self.session)
        self.runner = Runner(self)
        self._completer = MenuCompleter(self.session)
        self._lexer = LineLexer(self.session)
        self.runner.start(self._options, self._startup)
        self._soon(self._built)

    def _built(self) -> None:
        self._ready.set()
        for line, echo in self._early:
            self._submit(line, echo)
        self.redraw()

    def _submit(self, line: str, echo: bool = False) -> None:
        if not self._ready.is_set():
            self._early.append((line, echo))
            return
        self.session.history.append(masked(line))
        self.runner.submit(line, echo)

    def _cancel(self) -> str | None:
        self._early.clear()
        return self.runner.cancel() if self._ready.is_set() else None

    def _busy(self) -> bool:
        return self._ready.is_set() and self.runner.busy

    def completer(self) -> MenuCompleter:
        """Return what completes a line; waits until it is there."""
        self._ready.wait()
        return self._completer

    def lexer(self) -> LineLexer | None:
        """Return what colours a line, None when it is not there yet."""
        return self._lexer if self._ready.is_set() else None

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-c", filter=Condition(self._busy), eager=True)
        def _give_up(event: KeyPressEvent) -> None:
            self._give_up()

        return keys

    def _give_up(self) -> None:
        cancelled = self._cancel() if self._busy() else None
        if cancelled is not None:
            self.notify(f"cancelled: {printable(cancelled)}", "warning")

    def _message(self) -> StyleAndTextTuples:
        vm = self.session.vm if self._ready.is_set() else None
        return [("class:prompt", f"{vm.name if vm is not None else 'qmr'}> ")]

    def _toolbar(self) -> StyleAndTextTuples:
        if not self._ready.is_set():
            return [("class:bar.dim", " ...")]
        from .status import status

        return [*status(self.session, self.runner.running(), self.runner.waiting())]

    # What other threads have to say.

    def stop(self) -> None:
        """End the session; may be called by any thread."""
        self._soon(self._stop_prompt)

    def _stop_prompt(self) -> None:
        app = self._prompt.app if self._prompt is not None else None
        if app is not None and app.is_running and not app.is_done:
            app.exit(exception=EOFError)

    def redraw(self) -> None:
        """Show the status bar anew."""
        if self._prompt is not None:
            self._prompt.app.invalidate()

    def redraw_later(self) -> None:
        """Show the status bar anew when a command that began now is worth a word."""
        loop = self._loop
        if loop is not None:
            from .status import WORTH_A_WORD_S

            self._soon(lambda: loop.call_later(WORTH_A_WORD_S, self.redraw))

    def notify(self, text: str, look: str | None) -> None:
        """Print one line above the prompt."""
        self.emit(render.paint(printable(text, 4000), look))

    def emit(self, text: str, pager: bool = False) -> None:
        """Print lines above the prompt, or show them in a pager."""
        with self._lock:
            self._output.append((text, pager))
            if self._flushing:
                return
            self._flushing = True
        self._soon(lambda: self._spawn(self._flush()))

    def typed_ahead(self) -> bool:
        """Whether the user is typing the next line already."""
        return self._prompt is not None and bool(self._prompt.default_buffer.text)

    def _soon(self, work: Callable[[], object]) -> None:
        if self._loop is not None and not self._closing:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(work)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        while True:
            await self._flush_all()
            with self._lock:
                if not self._output:
                    self._flushing = False
                    return
            await asyncio.sleep(_FLUSH_S)

    async def _flush_all(self) -> None:
        with self._lock:
            pieces = list(self._output)
            self._output.clear()
        text = ""
        for piece, pager in pieces:
            if pager:
                await self._write(text)
                text = ""
                await run_in_terminal(partial(page, piece), in_executor=True)
            else:
                text += piece + "\n"
        await self._write(text)

    async def _write(self, text: str) -> None:
        if text and self._prompt is not None:
            output = self._prompt.app.output

            def write() -> None:
                output.write_raw(text.replace("\n", "\r\n"))
                output.flush()

            await run_in_terminal(write)

    # Events.

    def _heard(self, vm: Vm, event: Event) -> None:
        if vm is not self.session.vm and self.session.vm is not None:
            return
        if not vm.log.is_shown(event):
            return
        with self._lock:
            self._events.append((vm, event))
            if self._counting:
                return
            self._counting = True
        self._soon(self._show_events)

    def _show_events(self) -> None:
        with self._lock:
            events = list(self._events)
            self._events.clear()
            if not events:
                self._counting = False
                return
        self.emit("\n".join(_event_lines([event for _, event in events])))
        # Until then what comes is gathered, so that a flood does not drown the prompt.
        assert self._loop is not None
        self._loop.call_later(_EVENTS_S, self._show_events)


class _Late(Completer):
    """The completer, which is made when the prompt is there."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        return self._screen.completer().get_completions(document, complete_event)


class _LateLexer(Lexer):
    """The colours of a line, which come when the prompt is there."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lexer = self._screen.lexer()
        if lexer is not None:
            return lexer.lex_document(document)
        lines = document.lines
        return lambda number: [("", lines[number])] if number < len(lines) else []

    def invalidation_hash(self) -> int:
        return id(self._screen.lexer())


def _event_lines(events: list[Event]) -> list[str]:
    from .status import event_text, flood_text

    if len(events) <= _EVENTS_AT_ONCE:
        return [event_text(event) for event in events]
    return flood_text(events, _EVENTS_AT_ONCE)
