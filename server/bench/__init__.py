"""``python -m server bench``: load from the client's side, with simulated viewers.

``viewer`` plays frames by the clock (pure), ``client`` opens one stream and follows it, ``report``
turns what was seen into one JSON object, ``command`` runs N clients, also against a server it
starts itself.
"""
