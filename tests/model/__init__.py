"""A model of files in memory, and random operations on real ones that are compared with it.

    contents.py   what a file may hold by the rules; pure
    subjects.py   memory, queues, files and operations under way, each with its part in the model
    machine.py    draws steps by a seed, takes them, and says where file and model differ
    stories.py    one seed: a thread or several, from empty files to the comparison at the end
    __main__.py   the command line: python -m model --seconds 60 --dir D --seed N, in the folder tests
    seeds.txt     seeds that once found something; the suite runs each of them

Operations that are in flight together and overlap may leave any byte of either; all else is exact. In one thread the
steps are the seed's alone. Of several threads the system draws the order, which what they find does not depend on.
"""

from .contents import DifferenceError
from .stories import kept_seeds, run

__all__ = ["DifferenceError", "kept_seeds", "run"]
