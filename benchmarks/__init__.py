"""Measurements: models against other runtimes, kernels alone, and a guard against lost speed. See README.md."""
