"""A model and a gallery behind HTTP: the APIs that people's clients speak, and a page to search with.

A request passes the guards (`access`, `limits`, `pictures`), becomes items (`dialects`), waits with those of others for
its turn (`batcher`), and is answered in the words of its dialect. `service` holds what all routes stand on.
"""
