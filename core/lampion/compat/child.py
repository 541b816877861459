"""Imported by the server that forks a program's processes: `torch` means lampion in them."""

from . import install

install()
