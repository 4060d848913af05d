"""Which worker is asked next: the ring's order, refined by what this client has seen. Pure."""
