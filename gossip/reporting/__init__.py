"""What the node shows of itself: the frozen view, the words for events, and warnings to its operator."""
