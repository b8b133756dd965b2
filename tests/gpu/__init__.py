"""What only a GPU can say: `pytest -m gpu`, and the first ten minutes on one, `session.sh`."""
