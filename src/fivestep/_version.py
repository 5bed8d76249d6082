"""The version, alone in a module so that `fivestep --version` answers without importing torch."""

__version__ = "0.1.0"
