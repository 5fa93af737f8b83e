"""A second process that does what a test tells it, one statement at a time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Answers with one line each. What an expression gives comes back if it is a literal, else its repr.
_LOOP = """
import ast, json, sys
import numpy as np
import gatherio as gio
names = {"np": np, "gio": gio}
for line in sys.stdin:
    source = json.loads(line)
    try:
        try:
            value = eval(compile(source, "<test>", "eval"), names)
        except SyntaxError:
            value = exec(compile(source, "<test>", "exec"), names)
        answer = ["ok", repr(value)]
    except Exception as error:
        answer = [type(error).__name__, repr(error)]
    print(json.dumps(answer), flush=True)
"""


class PeerError(Exception):
    """What a peer ran into."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Peer:
    """Another interpreter, with ``np``, ``gio`` and whatever it was told to make."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-X", "faulthandler", "-c", _LOOP],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, source: str) -> None:
        """Let it run a statement, without waiting for the end of it. Fetch the answer with `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(source) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the other process has ended, exit code {self._process.wait()}"
        kind, text = json.loads(line)
        if kind != "ok":
            raise PeerError(kind, text)
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def do(self, source: str) -> Any:
        self.tell(source)
        return self.answer()

    def kill(self) -> None:
        """As a crash would end it: SIGKILL, TerminateProcess."""
        self._process.kill()
        self._end()

    def close(self) -> int:
        """Let it end as programs do."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._end()

    def _end(self) -> int:
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return code

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.returncode is None:
            self.kill()
