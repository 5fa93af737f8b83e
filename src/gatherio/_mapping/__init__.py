"""Files and memory as arrays, shared by a name."""
