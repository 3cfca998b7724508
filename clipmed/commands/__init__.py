"""The commands of `clipmed`: one module each, with `Command`, its settings, and `run`, what it does."""
