"""Metrics: numbers from arrays or callables. No module here knows a network, a method or a data set by name."""
