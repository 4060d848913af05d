"""The shell around the protocol core: the UDP socket, its timer, and what its error queue says."""
