"""What keeps outsiders out and members honest: the seal, keys and their rotation, signatures, rate limits."""
