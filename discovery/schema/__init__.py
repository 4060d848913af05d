"""The shapes of requests and answers. Pure: structs that check what comes in and describe what goes out."""
