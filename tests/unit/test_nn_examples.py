"""The examples in the docstrings of lampion.nn run and print what they say."""
import doctest
import importlib
import pkgutil
import warnings

import pytest

import lampion
from lampion import nn


def _modules():
    yield nn
    for found in pkgutil.walk_packages(nn.__path__, "lampion.nn."):
        yield importlib.import_module(found.name)


def _examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {"lampion": lampion, "nn": nn, "F": nn.functional}
    for module in _modules():
        for test in finder.find(module, module.__name__, module=module, globs=names):
            if test.examples:
                yield test


@pytest.mark.parametrize("test", _examples(), ids=lambda test: test.name)
def test_example(test):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        report = []
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
