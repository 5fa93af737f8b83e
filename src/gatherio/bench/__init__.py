"""The study: what gatherio, its peers and the disk itself reach on this machine.

How it fits together, from the inside out:

    runs       what one run moved and cost; the spread of several; what a figure is to reach
    groups     contenders that take turns, and the claims that are made of them
    bed        the files and arrays that runs work on, how large and how often
    room       a folder that goes at the end, patterns that tell what went where
    machine    what the figures depend on
    fio, bare_loop, numpy_ways, peers      those beside us
    sequential, arrays, separate, small, others, kinds, mappings, memory, maps
               the study's sections: each yields groups
    document   the results: their shape, saving, taking up again
    runner     lets the groups run within the limits, saving after each
    tables, pictures      the same for people
    tuner      picks settings for a device (`gatherio tune`)
    command    the command line of `gatherio bench` and `gatherio tune`
"""
