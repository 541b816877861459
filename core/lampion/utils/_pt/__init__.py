"""The checkpoint format of `lampion.save` and `lampion.load`, which is PyTorch's.

archive.py reads and writes the zip container, names.py translates class names, storages.py
stands between files and device memory, pickler.py and unpickler.py (un)pickle the object
structure, legacy.py reads the format from before the zip container. Floor 7.
"""
