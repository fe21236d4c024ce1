"""What gateways that merge requests tell replicas by headers, and what replicas say to it.

Nothing is imported: replicas in other environments run this file where the package is missing.
"""

TURN = b"x-restaurant-turn"
"""Sent by gateways that merge requests: this prediction waits for others that came with it, from other gateways."""
COUNTS = b"x-restaurant-counts"
"""Sent with requests that were put together: rows of each, as numbers with commas between, by which a missing text is told
to be what it is in its own request. A replica that can't do that says `APART`, and gets each request alone."""
APART = 409
NEVER = 501
"""What one says instead that could do it with no requests at all, for instance because it was restarted without shortcuts; nothing
comes with it."""
