"""Settings: what is in force where an op is called, the switch of the program and the scopes around the caller."""
