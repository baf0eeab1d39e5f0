"""What the program tells about itself: logs, the access log, metrics. Nothing here decides anything."""
