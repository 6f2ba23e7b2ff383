"""Seeing what the engine does: observers, profiles, metrics, spans, and a live page.

With no one observing, nothing is paid: no thread runs, and no op is told of. The libraries that some of it needs are
imported where it is used: `pip install 'eagerloop[observe]'`.
"""

from __future__ import annotations

from engine.observe.events import Observer, OpRecord
from engine.observe.hub import hub
from engine.observe.profiling import Profile, profile

__all__ = ["Observer", "OpRecord", "Profile", "add", "profile", "remove", "using"]

add = hub.add
remove = hub.remove
using = hub.using
