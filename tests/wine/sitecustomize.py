"""Makes the standard streams of the Python that tests/wine/python starts UTF-8 and line-buffered.

Through pipes Windows would have them in its ANSI code page, which no Linux terminal or log shows. The variable is
taken away again: a Python that is started from this one finds everything as on Windows.
"""

import os
import sys

if os.environ.pop("GATHERIO_WINE_UTF8", None):
    sys.stdin.reconfigure(encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", line_buffering=True)
