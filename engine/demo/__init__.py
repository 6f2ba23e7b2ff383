"""The demo: the relief of a real elevation model, computed three ways while a heartbeat is measured."""
