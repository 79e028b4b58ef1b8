"""The one thing pyproject.toml cannot say: the cffi extension that holds the engine."""

from setuptools import setup

setup(cffi_modules=["native/build_engine.py:ffibuilder"])
