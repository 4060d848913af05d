"""What runs a pool: its event loop in a thread, the locks its threads share, its one timer, its file descriptors."""
