"""Gateway, worker host, wire protocol and command line; knows nothing of the network's insides."""
