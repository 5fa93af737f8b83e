"""The command line: ``gatherio info``, ``demo``, ``bench`` and ``tune``.

main          the grammar, and how every command ends
info, demo, bench, tune      a module for each command: its options, its help, what it does
text          what people read: sizes, paragraphs, tables, progress
arguments     what commands have in common in their grammar
signals       Ctrl-C and the like, as exceptions
search_path   where modules and programs are looked for

demo_job, demo_phases, demo_report      what `demo` does, measures and tells
quick         what `bench --quick` compares
tuner         picks settings for a device
"""
