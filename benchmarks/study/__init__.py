"""The study: what gatherio, its peers and the disk itself reach on this machine.

    python benchmarks/study DIR        or `gatherio bench DIR`, where gatherio is installed from this checkout

It is built on what the package has for `gatherio tune` and `gatherio bench --quick`: gatherio.probe (what one run moved
and cost, files and arrays to work on, ways to transfer) and gatherio._cli (the options, text, the shape of a row). How
the rest fits together, from the inside out:

    runs, programs      runs of other programs, and how those are started; what a figure is to reach
    groups     contenders that take turns, and the claims that are made of them
    bed        the files and arrays that runs work on, how large and how often
    machine    what the figures depend on
    fio, bare_loop, numpy_ways, peers      those beside us
    sequential, arrays, separate, small, others, kinds, mappings, memory, maps
               the study's sections: each yields groups
    document   the results: their shape, saving, taking up again
    runner     lets the groups run within the limits, saving after each
    tables, headline, pictures, report, safe_text      the same for people
    command    what runs all of it
"""
