"""Measures the machine at hand for the cost model: `profile --calibrate NAME`."""
