"""Is it right on this GPU, and how fast? `python -m engine.testing.gpu` asks both, in four minutes at most."""
