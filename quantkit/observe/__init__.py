"""Sample data, statistics of activations, and ranges."""

from quantkit.observe.batches import Batch
from quantkit.observe.calibrate import observe
from quantkit.observe.data import Dataset, open_data
from quantkit.observe.histogram import NumpyBackend, StatisticsBackend, TensorStatistics
from quantkit.observe.preprocess import PRESETS, Preprocess, load_preprocess
from quantkit.observe.ranges import range_for
from quantkit.observe.runner import FloatRunner
from quantkit.observe.table import CalibrationTable, preprocess_digest

__all__ = [
    "PRESETS",
    "Batch",
    "CalibrationTable",
    "Dataset",
    "FloatRunner",
    "NumpyBackend",
    "Preprocess",
    "StatisticsBackend",
    "TensorStatistics",
    "load_preprocess",
    "observe",
    "open_data",
    "preprocess_digest",
    "range_for",
]
