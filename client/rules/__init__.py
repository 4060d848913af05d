"""What decides about one request. May it be sent again, what does an answer mean, how long to wait, what does a hedge
cost. Pure."""
