"""What only a GPU can say: `pytest -m gpu`, and the first ten minutes on one, `session.sh`. What a machine without one
can check of the same path: `fake/`."""
