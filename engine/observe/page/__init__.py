"""The live page: `engine.observe.dashboard()`, and `python -m engine dashboard script.py`."""
